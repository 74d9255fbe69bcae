/*
 * Table frames for a hosted process: one reserved address range a P2M, frames handed out from its
 * start and recycled. The first frames are in small pages, for small P2Ms are many; what follows is
 * made ready 2 MiB at a time, in huge pages where the machine gives them, just before it is used.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_ARENA_H
#define P2MFAST_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arena {
    uint64_t *memory;
    uint64_t frames; /* reserved */
    uint64_t ready;  /* [0, ready) is in memory, or left to be faulted in by small pages */
    void *range;     /* as reserved, before it was aligned; NULL: the embedder's memory */
    size_t range_bytes;
    uint64_t in_range; /* frames handed out so far, recycled ones included: [0, in_range) */
    uint64_t free;     /* recycled and not in use */
    uint64_t recycled; /* head of their chain */
};

/* Reserve room for up to `frames` tables, fewer where the machine's memory is smaller; or take this
 * `memory` for them, which need not be clear. 0 or a negative enum p2mfast_error. */
int arena_init(struct arena *arena, uint64_t frames, void *memory);
void arena_destroy(struct arena *arena);

/* Frames [0, count), zeroed; once, before any other. */
uint64_t arena_take_roots(struct arena *arena, unsigned count);
/* The same for all of [0, rows), which the caller fills; no more than there are. */
void arena_take_rows(struct arena *arena, uint64_t rows);
bool arena_can_take(const struct arena *arena, uint64_t count);
uint64_t arena_take(struct arena *arena, bool zeroed);
/* The frame behind this one in the chain of recycled ones, or NO_FRAME. */
uint64_t arena_next_free(const struct arena *arena, uint64_t frame);
void arena_give(struct arena *arena, uint64_t frame);
/* Bytes in memory, or about to be: small pages come one by one, steps at once. */
uint64_t arena_bytes(const struct arena *arena);

#endif
