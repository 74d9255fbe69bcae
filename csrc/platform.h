/*
 * What the core asks of its surroundings. A hosted process gives this with arena.c and hosted.c;
 * a hypervisor, a simulator or a test gives its own. Nothing else of the core touches the outside.
 *
 * Physical-to-pointer is data: table frame f (0 <= f < frames) is at memory + f * 4096 for the CPU
 * and at machine frame base_mfn + f for the MMU. Every table address is checked against that
 * before it is followed. Table memory stays mapped for the P2M's life; a late reader may look at a
 * frame that was given back.
 *
 * Calls are made under the P2M's lock, and some while readers are kept waiting: they must not look
 * anything up in the P2M. Optional ones may be NULL.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_PLATFORM_H
#define P2MFAST_PLATFORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NO_FRAME UINT64_MAX

typedef struct p2mfast_platform {
    void *context; /* handed to every call */

    /* Optional: the loops that this machine runs best (vec.h); NULL: the portable ones. */
    const struct vec *vec;

    uint64_t *memory;
    uint64_t base_mfn;
    uint64_t frames;

    /* `count` zeroed frames in a row, aligned to count * 4096 bytes as the MMU sees them; called
     * once. NO_FRAME: there are none. */
    uint64_t (*take_roots)(void *context, unsigned count);
    /* Promise that the next `count` takes succeed; 0, or negative where they would not. */
    int (*reserve)(void *context, uint64_t count);
    /* One frame; filled with zeros where `zeroed` asks for it. */
    uint64_t (*take)(void *context, bool zeroed);
    void (*give)(void *context, uint64_t frame);

    /* Optional: frames given back and not taken again, and bytes of memory taken for tables. */
    void (*usage)(void *context, uint64_t *free_frames, uint64_t *bytes);

    /* Optional: make stores to descriptors visible to the table walker (DSB ISHST). */
    void (*barrier)(void *context);
    /* Optional: forget translations of nr pages from gfn on, and of the tables above them. */
    void (*invalidate_tlb)(void *context, uint64_t gfn, uint64_t nr);

    /* Optional: mappings of counted types that go, ascending. What is reported may still be in a
     * TLB: drop the references at unlock, when every invalidation has been made. One call stands
     * for a leaf or a part of it; the promise made before the first store (0, or negative) is of
     * `runs` reports, parts that go on (GFN, MFN and type) counted as one. */
    int (*reserve_removed)(void *context, uint64_t runs);
    void (*mapping_removed)(void *context, uint64_t gfn, uint64_t mfn, uint64_t nr, unsigned type);

    /* Optional: a page of 4096 zeroed bytes that is no table and stays until the P2M goes; NULL:
     * none is left. Without it there is no mem_access. */
    void *(*side_page)(void *context);

    /* Optional: one writer at a time. */
    void (*lock)(void *context);
    void (*unlock)(void *context);

    /* Optional: memory for the length of one call, to count exactly what a scattered update needs
     * when an upper bound does not fit. Without it the upper bound decides. */
    void *(*scratch)(void *context, size_t bytes);
    void (*release_scratch)(void *context, void *memory);
} p2mfast_platform_t;

#endif
