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

#endif
