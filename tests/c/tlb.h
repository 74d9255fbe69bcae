/*
 * The worst TLB that the architecture allows: whenever it is given the chance it caches every
 * descriptor that a walk can reach, and it forgets nothing unless told to. It finds a live
 * descriptor that was changed without an invalidation, an invalidation that came before the break,
 * a translation that outlives its mapping, and a store that no barrier has made visible.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_TLB_H
#define TESTS_TLB_H

#include "p2m.h"

/* Empty; watches this P2M from now on. */
void tlb_reset(const struct p2mfast *p2m);
/* Cache all that can be reached now. A word cached with another value is a failure, and so is one
 * that can be reached since the last barrier. */
void tlb_observe(void);
/* The same, and all stores so far are visible to the walker. */
void tlb_barrier(void);
/* Forget what maps these pages and no others, or leads to what does. */
void tlb_invalidate(uint64_t gfn, uint64_t nr);
/* Is there something cached of this frame, or a pointer to it? */
bool tlb_knows_frame(uint64_t frame);
/* Is there something cached that the tables do not say any more? */
bool tlb_is_stale(void);

#endif
