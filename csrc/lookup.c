/*
 * Look-ups, one at a time: what a GFN is mapped to (Xen's p2m_get_entry), and the MMU's view of an
 * access. Batches are in batch.c.
 *
 * Readers take no lock: what they read is read under the sequence counter and read again if a
 * table was being changed meanwhile.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "access.h"
#include "approach.h"
#include "lookup.h"
#include "translation.h"

/* ---- What a GFN is mapped to ---- */

/* Above the highest mapped GFN there is nothing, and no table tells how much of it: the first
 * level whose block starts above it does (Xen p2m_get_entry, check_p2m_max). */
static unsigned order_above_max(const struct geometry *geometry, uint64_t gfn, uint64_t max)
{
    for (int level = geometry->root_level; level < LEAF_LEVEL; level++)
        if (align_down(gfn, level_order(geometry, level)) > max)
            return level_order(geometry, level);
    return 0;
}

static inline void set_hole(p2mfast_entry_t *entry, unsigned order)
{
    *entry = (p2mfast_entry_t){
        P2MFAST_INVALID_MFN, P2MFAST_INVALID, (uint8_t)order, 0, 0, P2MFAST_NO_ACCESS, {0}};
}

static inline void set_entry(const struct geometry *geometry, const struct walk *walk,
                             p2mfast_entry_t *entry)
{
    *entry = (p2mfast_entry_t){walk_leaf_mfn(geometry, walk),
                               (uint8_t)pte_type(walk->pte),
                               (uint8_t)level_order(geometry, walk->level),
                               pte_is_valid(walk->pte),
                               walk->reachable,
                               P2MFAST_ACCESS_RWX,
                               {0}};
}

static inline uint64_t highest(const struct p2mfast *p2m)
{
    return __atomic_load_n(&p2m->max_mapped_gfn, __ATOMIC_RELAXED);
}

static inline void read_mapping(const struct p2mfast *p2m, uint64_t gfn, p2mfast_entry_t *entry)
{
    const struct geometry *geometry = &p2m->geometry;
    approach_t last = approach_last(&p2m->ground, WALK_SOFTWARE, gfn, geometry->root_level);
    uint64_t max = highest(p2m);
    struct walk walk;

    if (!(last & APPROACH_LEVEL)) {
        uint64_t pte = pte_read(approach_word(last));

        if (pte_is_present(geometry, pte)) {
            *entry = (p2mfast_entry_t){
                pte_mfn(geometry, pte),      (uint8_t)pte_type(pte), 0,  pte_is_valid(pte),
                last & pte & APPROACH_VALID, P2MFAST_ACCESS_RWX,     {0}};
            return;
        }
    }
    if (gfn > max)
        set_hole(entry, order_above_max(geometry, gfn, max));
    else if (p2m_walk(p2m, WALK_SOFTWARE, gfn, &walk) == WALK_LEAF)
        set_entry(geometry, &walk, entry);
    else
        set_hole(entry, level_order(geometry, walk.level));
}

void lookup_read_entry(const struct p2mfast *p2m, uint64_t gfn, p2mfast_entry_t *entry)
{
    read_mapping(p2m, gfn, entry);
    if (entry->type)
        entry->access = access_get(p2m, gfn);
}

void lookup_entry(const struct p2mfast *p2m, uint64_t gfn, p2mfast_entry_t *entry)
{
    uint32_t sequence;

    do {
        sequence = p2m_read_begin(p2m);
        lookup_read_entry(p2m, gfn, entry);
    } while (p2m_read_retry(p2m, sequence));
}

int p2mfast_get_entry(const p2mfast_t *p2m, uint64_t gfn, p2mfast_entry_t *entry)
{
    if (gfn >= p2m->geometry.gfn_limit)
        return P2MFAST_ERROR_RANGE;
    lookup_entry(p2m, gfn, entry);
    return 0;
}

/* ---- The MMU's view ---- */

void lookup_read_translation(const struct p2mfast *p2m, uint64_t ipa, unsigned access,
                             p2mfast_translation_t *result)
{
    struct walk walk;

    if (ipa >> p2m->geometry.ipa_bits) /* beyond the input size: a fault of level 0 */
        set_fault(result, 0, P2MFAST_FAULT_TRANSLATION);
    else if (p2m_walk(p2m, WALK_MMU, ipa >> PAGE_SHIFT, &walk) == WALK_LEAF)
        set_translation(&p2m->geometry, &walk, ipa, access, result);
    else
        set_fault(result, walk.level, walk.fault);
}

void lookup_translation(const struct p2mfast *p2m, uint64_t ipa, unsigned access,
                        p2mfast_translation_t *result)
{
    uint32_t sequence;

    do {
        sequence = p2m_read_begin(p2m);
        lookup_read_translation(p2m, ipa, access, result);
    } while (p2m_read_retry(p2m, sequence));
}

/* Most walks end at a page, and without a step that can fail: then this is all of it. */
static inline bool ends_at_page(const struct p2mfast *p2m, uint64_t gfn, unsigned access,
                                p2mfast_tlb_entry_t *entry)
{
    const struct geometry *geometry = &p2m->geometry;
    approach_t last = approach_last(&p2m->ground, WALK_MMU, gfn, geometry->root_level);
    struct walk walk = {.gfn = gfn, .level = LEAF_LEVEL};

    if (last & APPROACH_LEVEL)
        return false;
    walk.pte = pte_read(approach_word(last));
    if (~walk.pte & (PTE_VALID | PTE_TABLE) || (walk.pte & PTE_ADDRESS) >> geometry->pa_bits)
        return false;
    set_block(geometry, &walk, access, entry);
    return true;
}

int p2mfast_translate_block(const p2mfast_t *p2m, uint64_t ipa, unsigned access,
                            p2mfast_tlb_entry_t *entry)
{
    const struct geometry *geometry = &p2m->geometry;
    uint64_t gfn = ipa >> PAGE_SHIFT;
    uint32_t sequence;
    struct walk walk;

    if (!access || access > 7)
        return P2MFAST_ERROR_ARGUMENT;
    walk_start(geometry, &walk, gfn);
    if (ipa >> geometry->ipa_bits) {
        set_no_block(&walk, 0, P2MFAST_FAULT_TRANSLATION, 0, entry);
        return 0;
    }
    do {
        sequence = p2m_read_begin(p2m);
        if (ends_at_page(p2m, gfn, access, entry))
            continue;
        if (p2m_walk(p2m, WALK_MMU, gfn, &walk) == WALK_LEAF)
            set_block(geometry, &walk, access, entry);
        else
            set_no_block(&walk, walk.level, walk.fault,
                         walk.level - geometry->root_level + (walk.fault != P2MFAST_FAULT_EXTERNAL),
                         entry);
    } while (p2m_read_retry(p2m, sequence));
    return 0;
}

int p2mfast_translate(const p2mfast_t *p2m, uint64_t ipa, unsigned access,
                      p2mfast_translation_t *result)
{
    if (!access || access > 7)
        return P2MFAST_ERROR_ARGUMENT;
    lookup_translation(p2m, ipa, access, result);
    return 0;
}
