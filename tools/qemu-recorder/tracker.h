/*
 * Which pages of the guest's RAM were touched since the last harvest, and how: a P2M of the engine,
 * armed, whose translation faults are resolved as a hypervisor does, with a TLB for each vCPU in
 * front of it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RECORDER_TRACKER_H
#define RECORDER_TRACKER_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <p2mfast/p2mfast.h>

#define PAGE_SHIFT 12

/* A TLB entry and a harvested page have room for this many; a TLB entry's upper half is the P2M's
 * generation, by which it is stale. */
#define PAGE_BITS 26
#define NO_PAGE (((uint64_t)1 << PAGE_BITS) - 1)
#define KIND_BITS 3
#define TLB_ENTRIES 1024
#define GENERATION_SHIFT 32

struct tlb {
    uint64_t entries[TLB_ENTRIES]; /* generation, page, and the kinds that are recorded */
};

struct tracker {
    p2mfast_t *p2m;
    uint64_t base_gfn;
    uint64_t pages;
    uint8_t *kinds; /* a page: P2MFAST_READ..., since the last harvest */
    /* The self-check: a plain bit a page, that neither the TLBs nor the engine have a part in. */
    uint64_t *plain;
    /* Held while a page becomes reachable and by a harvest: what is collected has its kinds. Taken
     * by the caller of tracker_harvest. */
    pthread_mutex_t mutex;
};

/* Map all RAM, in pages of 4 KiB, and arm it. 0 or a negative enum p2mfast_error. */
int tracker_init(struct tracker *tracker, uint64_t base_gfn, uint64_t pages, bool check);

/* Write the pages touched since the last harvest, ascending, page << KIND_BITS | kinds, and arm;
 * `touched` has room for all. With the mutex held. Returns how many. */
size_t tracker_harvest(struct tracker *tracker, uint32_t *touched);

/* Whether these kinds of touches are recorded, as far as this TLB knows. */
static inline bool tlb_hit(const struct tracker *tracker, const struct tlb *tlb, uint64_t page,
                           unsigned kind)
{
    uint64_t wanted = p2mfast_tlb_generation(tracker->p2m) << GENERATION_SHIFT | page << KIND_BITS;
    uint64_t differs = tlb->entries[page % TLB_ENTRIES] ^ (wanted | kind);

    /* Nothing but kinds that are recorded besides may differ. */
    return !(differs & (~(uint64_t)(P2MFAST_READ | P2MFAST_WRITE | P2MFAST_EXECUTE) | kind));
}

void tracker_touch_missed(struct tracker *tracker, struct tlb *tlb, uint64_t page, unsigned kind);
void tracker_touch_checked(struct tracker *tracker, struct tlb *tlb, uint64_t page, unsigned kind);

/* A vCPU touches a page (counted from the start of RAM). */
static inline void tracker_touch(struct tracker *tracker, struct tlb *tlb, uint64_t page,
                                 unsigned kind)
{
    if (tracker->plain)
        tracker_touch_checked(tracker, tlb, page, kind);
    else if (!tlb_hit(tracker, tlb, page, kind))
        tracker_touch_missed(tracker, tlb, page, kind);
}

/* End QEMU: a recording that is wrong must not look like one. */
_Noreturn void recorder_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
