/*
 * Walks that do not block: of any tables, a descriptor at a time, each brought by the caller.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "translation.h"

_Static_assert(sizeof(struct geometry) <= sizeof(((p2mfast_regime_t *)0)->geometry),
               "p2mfast_regime_t has room for a geometry");

static const struct geometry *geometry_of(const p2mfast_regime_t *regime)
{
    return (const struct geometry *)regime->geometry;
}

int p2mfast_regime(uint64_t vttbr, uint64_t vtcr, unsigned pa_bits, p2mfast_regime_t *regime)
{
    struct geometry geometry;
    int error = geometry_from_vtcr(&geometry, vtcr, pa_bits);
    uint64_t root;

    if (!error)
        error = geometry_root(&geometry, vttbr, &root);
    if (error)
        return error;
    *regime = (p2mfast_regime_t){.vttbr = vttbr,
                                 .vtcr = vtcr,
                                 .root = root,
                                 .ipa_bits = geometry.ipa_bits,
                                 .pa_bits = geometry.pa_bits,
                                 .root_level = geometry.root_level,
                                 .root_pages = (uint8_t)geometry.root_pages};
    __builtin_memcpy(regime->geometry, &geometry, sizeof(geometry));
    return 0;
}

/* Ask for the descriptor of the walk's level in the table(s) at this address. */
static int ask(p2mfast_walk_t *walk, uint64_t table)
{
    const struct geometry *geometry = geometry_of(walk->regime);
    uint64_t index = level_index(geometry, walk->level, walk->ipa >> PAGE_SHIFT);

    walk->address = table + index * sizeof(uint64_t);
    return 1;
}

int p2mfast_walk_begin(p2mfast_walk_t *walk, const p2mfast_regime_t *regime, uint64_t ipa,
                       unsigned access)
{
    if (!access || access > 7)
        return P2MFAST_ERROR_ARGUMENT;
    *walk = (p2mfast_walk_t){
        .ipa = ipa, .regime = regime, .access = access, .level = regime->root_level};
    if (ipa >> regime->ipa_bits) { /* beyond the input size: a fault of level 0 */
        walk->result.fault = P2MFAST_FAULT_TRANSLATION;
        return 0;
    }
    if (regime->root >> regime->pa_bits) { /* beyond the output size: the same level */
        walk->result.fault = P2MFAST_FAULT_ADDRESS_SIZE;
        return 0;
    }
    return ask(walk, regime->root);
}

int p2mfast_walk_step(p2mfast_walk_t *walk, uint64_t descriptor)
{
    const struct geometry *geometry = geometry_of(walk->regime);
    struct walk step;
    enum walk_outcome outcome;

    walk_start(geometry, &step, walk->ipa >> PAGE_SHIFT);
    step.level = walk->level;
    outcome = walk_step(geometry, WALK_MMU, &step, descriptor);
    if (outcome == WALK_NEXT) {
        walk->level++;
        return ask(walk, step.table_mfn << PAGE_SHIFT);
    }
    if (outcome == WALK_LEAF)
        set_block(geometry, &step, walk->access, &walk->result);
    else
        set_no_block(&step, step.level, step.fault, step.level - geometry->root_level + 1,
                     &walk->result);
    return 0;
}

void p2mfast_walk_abort(p2mfast_walk_t *walk)
{
    walk->result =
        (p2mfast_tlb_entry_t){.level = walk->level,
                              .fault = P2MFAST_FAULT_EXTERNAL,
                              .reads = (uint8_t)(walk->level - walk->regime->root_level)};
}
