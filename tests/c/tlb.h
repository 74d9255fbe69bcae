/*
 * The worst TLB that the architecture allows: whenever it is given the chance it caches every
 * descriptor that a walk can reach, and it forgets nothing unless told to. It finds a live
 * descriptor that was changed without an invalidation, an invalidation that came before the break,
 * and a translation that outlives its mapping.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_TLB_H
#define TESTS_TLB_H

#include "p2m.h"

/* Empty; watches this P2M from now on. */
void tlb_reset(const struct p2mfast *p2m);
/* Cache all that can be reached now. A word cached with another value is a failure. */
void tlb_observe(void);
/* Forget what maps any of these pages, or leads to what does. */
void tlb_invalidate(uint64_t gfn, uint64_t nr);
/* Nothing is cached of this frame, nor a pointer to it. */
bool tlb_knows_frame(uint64_t frame);
/* Is there something cached that the tables do not say any more? */
bool tlb_is_stale(void);

#endif
