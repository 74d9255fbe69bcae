/*
 * The one step of a table walk: (geometry, state, descriptor) -> next table | leaf | hole | fault.
 * Pure: it reads no memory. Every walk, scalar, batched, of a live P2M or of an image, is a loop
 * around it that fetches the next descriptor in its own way.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_WALK_H
#define P2MFAST_WALK_H

#include "descriptor.h"

enum walk_view {
    WALK_SOFTWARE, /* follows what is present, armed or not */
    WALK_MMU,      /* follows what is valid, as the hardware does */
};

enum walk_outcome {
    WALK_NEXT,  /* walk.table_mfn is the next table, walk.level its level */
    WALK_LEAF,  /* walk.pte maps it */
    WALK_HOLE,  /* software view: nothing is mapped here */
    WALK_FAULT, /* MMU's view: walk.fault, at walk.level */
};

struct walk {
    uint64_t gfn;
    uint64_t pte;       /* the descriptor looked at last */
    uint64_t table_mfn; /* where the next one is to be read */
    int level;
    uint8_t fault;  /* enum p2mfast_fault */
    bool reachable; /* bit 0 of every descriptor so far was set */
};

static inline void walk_start(const struct geometry *geometry, struct walk *walk, uint64_t gfn)
{
    walk->gfn = gfn;
    walk->pte = 0;
    walk->table_mfn = 0;
    walk->level = geometry->root_level;
    walk->fault = P2MFAST_FAULT_NONE;
    walk->reachable = true;
}

static inline enum walk_outcome walk_fail(struct walk *walk, enum p2mfast_fault fault)
{
    walk->fault = (uint8_t)fault;
    return WALK_FAULT;
}

static inline enum walk_outcome walk_step(const struct geometry *geometry, enum walk_view view,
                                          struct walk *walk, uint64_t pte)
{
    bool table = pte_is_table(pte, walk->level);

    walk->pte = pte;
    walk->reachable &= pte_is_valid(pte); /* no branch: batches go through here */
    if (view == WALK_SOFTWARE) {
        if (!pte_is_present(geometry, pte))
            return WALK_HOLE;
    } else {
        /* Bit 1 clear: reserved at level 3, and no blocks above 1 GiB (Arm ARM D8.3.1). */
        bool reserved =
            !(pte & PTE_TABLE) && (walk->level == LEAF_LEVEL || walk->level < LEAF_LEVEL - 2);

        if (!pte_is_valid(pte) || reserved)
            return walk_fail(walk, P2MFAST_FAULT_TRANSLATION);
        if ((pte & geometry->address_mask) >> geometry->pa_bits)
            return walk_fail(walk, P2MFAST_FAULT_ADDRESS_SIZE);
    }
    if (!table)
        return WALK_LEAF;
    walk->table_mfn = pte_mfn(geometry, pte);
    walk->level++;
    return WALK_NEXT;
}

/* MFN of walk->gfn itself, not only of the start of the block that maps it. A block's address bits
 * below its size are RES0 (Arm ARM D8.3.1): in a foreign tree they may be set, and do not count. */
static inline uint64_t walk_leaf_mfn(const struct geometry *geometry, const struct walk *walk)
{
    uint64_t offset = walk->gfn & (level_pages(geometry, walk->level) - 1);

    if (walk->level == LEAF_LEVEL)
        return pte_mfn(geometry, walk->pte);
    return align_down(pte_mfn(geometry, walk->pte), level_order(geometry, walk->level)) + offset;
}

#endif
