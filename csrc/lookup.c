/*
 * Look-ups: what a GFN is mapped to (Xen's p2m_get_entry), and the MMU's view of an access.
 * Readers take no lock: each entry is read under the sequence counter and read again if a table
 * was being changed meanwhile.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "p2m.h"

/* Above the highest mapped GFN there is nothing, and no table tells how much of it: the first
 * level whose block starts above it does (Xen p2m_get_entry, check_p2m_max). */
static unsigned order_above_max(const struct geometry *geometry, uint64_t gfn, uint64_t max)
{
    for (int level = geometry->root_level; level < LEAF_LEVEL; level++)
        if (align_down(gfn, level_order(geometry, level)) > max)
            return level_order(geometry, level);
    return 0;
}

static void read_entry(const struct p2mfast *p2m, uint64_t gfn, p2mfast_entry_t *entry)
{
    const struct geometry *geometry = &p2m->geometry;
    uint64_t max = __atomic_load_n(&p2m->max_mapped_gfn, __ATOMIC_RELAXED);
    struct walk walk;

    *entry =
        (p2mfast_entry_t){P2MFAST_INVALID_MFN, P2MFAST_INVALID, 0, 0, 0, P2MFAST_NO_ACCESS, {0}};
    if (gfn > max) {
        entry->order = (uint8_t)order_above_max(geometry, gfn, max);
        return;
    }
    if (p2m_walk(p2m, WALK_SOFTWARE, gfn, &walk) == WALK_LEAF) {
        entry->mfn = walk_leaf_mfn(geometry, &walk);
        entry->type = (uint8_t)pte_type(walk.pte);
        entry->valid = pte_is_valid(walk.pte);
        entry->reachable = walk.reachable;
        entry->access = P2MFAST_ACCESS_RWX;
    }
    entry->order = (uint8_t)level_order(geometry, walk.level);
}

static void get_entry(const struct p2mfast *p2m, uint64_t gfn, p2mfast_entry_t *entry)
{
    uint32_t sequence;

    do {
        sequence = p2m_read_begin(p2m);
        read_entry(p2m, gfn, entry);
    } while (p2m_read_retry(p2m, sequence));
}

int p2mfast_get_entry(const p2mfast_t *p2m, uint64_t gfn, p2mfast_entry_t *entry)
{
    if (gfn >= p2m->geometry.gfn_limit)
        return P2MFAST_ERROR_RANGE;
    get_entry(p2m, gfn, entry);
    return 0;
}

int p2mfast_get_entries(const p2mfast_t *p2m, const uint64_t *gfns, size_t n,
                        p2mfast_entry_t *entries)
{
    for (size_t i = 0; i < n; i++)
        if (gfns[i] >= p2m->geometry.gfn_limit)
            return P2MFAST_ERROR_RANGE;
    for (size_t i = 0; i < n; i++)
        get_entry(p2m, gfns[i], &entries[i]);
    return 0;
}

/* ---- The MMU's view ---- */

/* What is left to check once the walk has found a leaf, in the architecture's order
 * (Arm ARM D8.15, MMU fault prioritization: access flag before permission). */
static enum p2mfast_fault leaf_fault(uint64_t pte, unsigned access)
{
    if (!(pte & PTE_AF))
        return P2MFAST_FAULT_ACCESS_FLAG;
    return pte_permits(pte, access) ? P2MFAST_FAULT_NONE : P2MFAST_FAULT_PERMISSION;
}

static void read_translation(const struct p2mfast *p2m, uint64_t ipa, unsigned access,
                             p2mfast_translation_t *result)
{
    const struct geometry *geometry = &p2m->geometry;
    struct walk walk;
    enum walk_outcome outcome;

    *result = (p2mfast_translation_t){0, 0, 0, P2MFAST_FAULT_TRANSLATION, {0}};
    if (ipa >> geometry->ipa_bits)
        return; /* beyond the input size: a translation fault of level 0 */
    outcome = p2m_walk(p2m, WALK_MMU, ipa >> PAGE_SHIFT, &walk);
    result->level = (int8_t)walk.level;
    result->fault = walk.fault;
    if (outcome != WALK_LEAF)
        return;
    result->fault = (uint8_t)leaf_fault(walk.pte, access);
    if (result->fault)
        return;
    result->pa = walk_leaf_mfn(geometry, &walk) << PAGE_SHIFT | (ipa & (TABLE_BYTES - 1));
    result->attrs = walk.pte & ~geometry->address_mask;
}

static void translate(const struct p2mfast *p2m, uint64_t ipa, unsigned access,
                      p2mfast_translation_t *result)
{
    uint32_t sequence;

    do {
        sequence = p2m_read_begin(p2m);
        read_translation(p2m, ipa, access, result);
    } while (p2m_read_retry(p2m, sequence));
}

int p2mfast_translate_many(const p2mfast_t *p2m, const uint64_t *ipas, size_t n, unsigned access,
                           p2mfast_translation_t *results)
{
    if (!access || access > 7)
        return P2MFAST_ERROR_ARGUMENT;
    for (size_t i = 0; i < n; i++)
        translate(p2m, ipas[i], access, &results[i]);
    return 0;
}

int p2mfast_translate(const p2mfast_t *p2m, uint64_t ipa, unsigned access,
                      p2mfast_translation_t *result)
{
    return p2mfast_translate_many(p2m, &ipa, 1, access, result);
}
