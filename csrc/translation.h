/*
 * What an MMU's walk comes to: the translation, or the fault and its level.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_TRANSLATION_H
#define P2MFAST_TRANSLATION_H

#include "walk.h"

/* What is left to check once the walk has found a leaf, in the architecture's order
 * (Arm ARM D8.15, MMU fault prioritization: access flag before permission). */
static inline enum p2mfast_fault leaf_fault(uint64_t pte, unsigned access)
{
    if (!(pte & PTE_AF))
        return P2MFAST_FAULT_ACCESS_FLAG;
    return pte_permits(pte, access) ? P2MFAST_FAULT_NONE : P2MFAST_FAULT_PERMISSION;
}

static inline void set_fault(p2mfast_translation_t *result, int level, unsigned fault)
{
    *result = (p2mfast_translation_t){0, 0, (int8_t)level, (uint8_t)fault, {0}};
}

/* The walk has ended at a leaf. */
static inline void set_translation(const struct geometry *geometry, const struct walk *walk,
                                   uint64_t ipa, unsigned access, p2mfast_translation_t *result)
{
    enum p2mfast_fault fault = leaf_fault(walk->pte, access);

    if (fault) {
        set_fault(result, walk->level, fault);
        return;
    }
    *result = (p2mfast_translation_t){walk_leaf_mfn(geometry, walk) << PAGE_SHIFT |
                                          (ipa & (TABLE_BYTES - 1)),
                                      walk->pte & ~geometry->address_mask,
                                      (int8_t)walk->level,
                                      P2MFAST_FAULT_NONE,
                                      {0}};
}

/* The block that the walk has ended at, and whether it permits the access. */
static inline void set_block(const struct geometry *geometry, const struct walk *walk,
                             unsigned access, p2mfast_tlb_entry_t *entry)
{
    unsigned order = level_order(geometry, walk->level);
    uint64_t first = align_down(walk->gfn, order);
    uint64_t pte = walk->pte;

    *entry = (p2mfast_tlb_entry_t){
        .ipa = first << PAGE_SHIFT,
        .pa = (walk_leaf_mfn(geometry, walk) - (walk->gfn - first)) << PAGE_SHIFT,
        .size = (uint64_t)TABLE_BYTES << order,
        .descriptor = pte,
        .rights = (uint8_t)pte_rights(pte),
        .memattr = (uint8_t)((pte & PTE_MEMATTR) >> PTE_MEMATTR_SHIFT),
        .shareability = (uint8_t)((pte & PTE_SH) >> PTE_SH_SHIFT),
        .level = (int8_t)walk->level,
        .fault = (uint8_t)leaf_fault(pte, access),
        .reads = (uint8_t)(walk->level - geometry->root_level + 1),
    };
}

/* Nothing maps the address: the walk has failed at `level`, after so many reads. */
static inline void set_no_block(const struct walk *walk, int level, unsigned fault, int reads,
                                p2mfast_tlb_entry_t *entry)
{
    *entry = (p2mfast_tlb_entry_t){.descriptor = walk->pte,
                                   .level = (int8_t)level,
                                   .fault = (uint8_t)fault,
                                   .reads = (uint8_t)reads};
}

#endif
