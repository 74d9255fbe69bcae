/*
 * Walks down to a last word that is not read yet: batches prefetch it, and look at it when it has
 * come. Compiled for each root level, with the granule's numbers as constants.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_APPROACH_H
#define P2MFAST_APPROACH_H

#include "p2m.h"

/* Address of the descriptor that a walk has come to. Words are aligned to 8 bytes, which leaves
 * three bits: bit 0, every descriptor above it was valid; bits 2:1, how many levels above the last
 * it is. */
typedef uint64_t approach_t;

#define APPROACH_VALID ((approach_t)1)
#define APPROACH_LEVEL_SHIFT 1
#define APPROACH_LEVEL ((approach_t)3 << APPROACH_LEVEL_SHIFT)

static inline uint64_t *approach_word(approach_t approach)
{
    return (uint64_t *)(uintptr_t)(approach & ~(APPROACH_VALID | APPROACH_LEVEL));
}

static inline int approach_level(approach_t approach)
{
    return LEAF_LEVEL - (int)((approach & APPROACH_LEVEL) >> APPROACH_LEVEL_SHIFT);
}

static inline approach_t approach_at(const uint64_t *word, int level, uint64_t valid)
{
    return (uintptr_t)word | (approach_t)(LEAF_LEVEL - level) << APPROACH_LEVEL_SHIFT | valid;
}

/* Number in memory of the frame that one of the engine's own table pointers leads to. Anything
 * else, whatever its bits, gives a number beyond memory: one comparison for all that can differ. */
static inline uint64_t approach_frame(const struct ground *ground, enum walk_view view,
                                      uint64_t pte)
{
    uint64_t offset = (view == WALK_SOFTWARE ? pte | PTE_VALID : pte) - ground->pointer;

    return offset >> PAGE_SHIFT | offset << (64 - PAGE_SHIFT);
}

/* From a word of `level` on to that of level `target`, or as far as the engine's own table
 * pointers lead. The levels are constants where it is called. */
static inline __attribute__((always_inline)) approach_t approach_from(const struct ground *ground,
                                                                      enum walk_view view,
                                                                      uint64_t gfn, uint64_t *word,
                                                                      uint64_t valid, int level,
                                                                      int target)
{
#pragma GCC unroll 4
    for (; level < target; level++) {
        uint64_t pte = pte_read(word);
        uint64_t frame = approach_frame(ground, view, pte);

        if (__builtin_expect(frame >= ground->frames, 0))
            return approach_at(word, level, valid);
        valid &= pte;
        word = ground->memory + frame * TABLE_WORDS +
               (gfn >> GRANULE_ORDER(level + 1) & (TABLE_WORDS - 1));
    }
    return approach_at(word, target, valid);
}

static inline __attribute__((always_inline)) approach_t approach(const struct ground *ground,
                                                                 enum walk_view view, uint64_t gfn,
                                                                 int root_level, int target)
{
    uint64_t *word = ground->root + (gfn >> GRANULE_ORDER(root_level) & ground->root_mask);

    return approach_from(ground, view, gfn, word, PTE_VALID, root_level, target);
}

/* The same for any root level, down to the last word. */
static inline approach_t approach_last(const struct ground *ground, enum walk_view view,
                                       uint64_t gfn, int root_level)
{
    return root_level == 1 ? approach(ground, view, gfn, 1, LEAF_LEVEL)
                           : approach(ground, view, gfn, 0, LEAF_LEVEL);
}

/* Walks under way together: few enough to stay in the core's window, enough to hide a miss. */
#define APPROACH_BLOCK 64

/* Size of the block of a batch of n that begins at `at`. */
static inline size_t approach_block(size_t n, size_t at)
{
    return n - at < APPROACH_BLOCK ? n - at : APPROACH_BLOCK;
}

/* To the last words of up to APPROACH_BLOCK pages, which are to be written. The arrays are another
 * thread's to spoil: what is read counts, and no index leaves its table. */
static inline void approach_to_write(const struct p2mfast *p2m, const struct ground *ground,
                                     const uint64_t *gfns, size_t n, approach_t *approaches)
{
    int root_level = p2m->geometry.root_level;

    for (size_t i = 0; i < n; i++) {
        uint64_t gfn = __atomic_load_n(&gfns[i], __ATOMIC_RELAXED);

        approaches[i] = approach_last(ground, WALK_SOFTWARE, gfn, root_level);
        __builtin_prefetch((const void *)(uintptr_t)approaches[i], 1);
    }
}

#endif
