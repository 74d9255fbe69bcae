/*
 * The hosted platform's queue of events, in the order they happened, until they are drained.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_EVENTS_H
#define P2MFAST_EVENTS_H

#include "heap.h"
#include "p2mfast/p2mfast.h"

/* TLB invalidations that wait at the most; then one stands for all. */
#define MAX_TLB_EVENTS 4096

struct events {
    const struct heap *heap;
    p2mfast_event_t *events;
    size_t first; /* oldest that was not drained */
    size_t n;     /* one behind the newest */
    size_t capacity;
    size_t invalidations; /* of the waiting ones */
    size_t last_removal;  /* the one that may still grow, or none */
};

/* 0, or P2MFAST_ERROR_MEMORY. */
int events_init(struct events *events, const struct heap *heap);
void events_destroy(struct events *events);

/* Room for so many removals, an invalidation behind each; 0, or P2MFAST_ERROR_MEMORY. */
int events_reserve_removed(struct events *events, uint64_t runs);
/* Within that, it succeeds. */
void events_removed(struct events *events, uint64_t gfn, uint64_t mfn, uint64_t nr, unsigned type);
/* Always succeeds; false where those that wait had to become one, of all `limit` pages. */
bool events_invalidated(struct events *events, uint64_t gfn, uint64_t nr, uint64_t limit);

size_t events_waiting(const struct events *events);
/* Take up to `capacity`, oldest first. */
size_t events_drain(struct events *events, p2mfast_event_t *taken, size_t capacity);

#endif
