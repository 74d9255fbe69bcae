/*
 * Which pages of the guest's RAM were touched.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tracker.h"

#include <stdlib.h>

#define HARVEST_RUNS 4096
#define WORD_BITS 64

int tracker_init(struct tracker *tracker, uint64_t base_gfn, uint64_t pages, bool check)
{
    const p2mfast_config_t config = P2MFAST_CONFIG_DEFAULT;
    int error;

    *tracker = (struct tracker){.base_gfn = base_gfn, .pages = pages};
    pthread_mutex_init(&tracker->mutex, NULL);
    tracker->kinds = calloc(pages, 1);
    if (check)
        tracker->plain = calloc((pages + WORD_BITS - 1) / WORD_BITS, sizeof(*tracker->plain));
    if (!tracker->kinds || (check && !tracker->plain))
        return P2MFAST_ERROR_MEMORY;
    tracker->p2m = p2mfast_create_with_error(&config, &error);
    if (!tracker->p2m)
        return error;
    error = p2mfast_set_entry(tracker->p2m, base_gfn, pages, base_gfn, P2MFAST_RAM_RW,
                              P2MFAST_ACCESS_RWX, P2MFAST_MAX_ORDER_0);
    return error ? error : p2mfast_invalidate_root(tracker->p2m);
}

/* ---- Touches ---- */

static bool is_reachable(const struct tracker *tracker, uint64_t page, unsigned kind)
{
    p2mfast_translation_t translation;

    if (p2mfast_translate(tracker->p2m, (tracker->base_gfn + page) << PAGE_SHIFT, kind,
                          &translation))
        recorder_fail("the engine refuses to translate page %#lx", (long)page);
    if (translation.fault && translation.fault != P2MFAST_FAULT_TRANSLATION)
        recorder_fail("page %#lx has a fault of kind %u", (long)page, translation.fault);
    return !translation.fault;
}

static void fill(struct tlb *tlb, uint64_t generation, uint64_t page, unsigned kinds)
{
    tlb->entries[page % TLB_ENTRIES] = generation << GENERATION_SHIFT | page << KIND_BITS | kinds;
}

/* With the mutex held, so that no harvest comes between the engine's bit and ours. */
static void record(struct tracker *tracker, struct tlb *tlb, uint64_t page, unsigned kind)
{
    uint64_t generation = p2mfast_tlb_generation(tracker->p2m);
    unsigned kinds = tracker->kinds[page] | kind;

    if (!is_reachable(tracker, page, kind) &&
        p2mfast_resolve_translation_fault(tracker->p2m, tracker->base_gfn + page,
                                          P2MFAST_DEPTH_PATH, 0) != 1)
        recorder_fail("the engine does not resolve page %#lx", (long)page);
    __atomic_store_n(&tracker->kinds[page], kinds, __ATOMIC_RELAXED);
    fill(tlb, generation, page, kinds);
}

/* Whether another vCPU, or this one before its TLB forgot, has the page recorded: without a lock. A
 * harvest that arms it in between changes the generation, and what is filled in here is stale. */
static bool is_recorded(struct tracker *tracker, struct tlb *tlb, uint64_t page, unsigned kind)
{
    uint64_t generation = p2mfast_tlb_generation(tracker->p2m);
    unsigned kinds = __atomic_load_n(&tracker->kinds[page], __ATOMIC_RELAXED);

    if (kind & ~kinds || !is_reachable(tracker, page, kind) ||
        p2mfast_tlb_generation(tracker->p2m) != generation)
        return false;
    fill(tlb, generation, page, kinds);
    return true;
}

void tracker_touch_missed(struct tracker *tracker, struct tlb *tlb, uint64_t page, unsigned kind)
{
    if (is_recorded(tracker, tlb, page, kind))
        return;
    pthread_mutex_lock(&tracker->mutex);
    record(tracker, tlb, page, kind);
    pthread_mutex_unlock(&tracker->mutex);
}

/* The mutex is held for every access, so that a harvest is at the same moment for the plain bits
 * and for the rest, which goes the same way as without them. */
void tracker_touch_checked(struct tracker *tracker, struct tlb *tlb, uint64_t page, unsigned kind)
{
    pthread_mutex_lock(&tracker->mutex);
    tracker->plain[page / WORD_BITS] |= (uint64_t)1 << page % WORD_BITS;
    if (!tlb_hit(tracker, tlb, page, kind) && !is_recorded(tracker, tlb, page, kind))
        record(tracker, tlb, page, kind);
    pthread_mutex_unlock(&tracker->mutex);
}

/* ---- Harvests ---- */

static size_t collect(struct tracker *tracker, const p2mfast_run_t *run, uint32_t *touched)
{
    for (uint64_t i = 0; i < run->nr; i++) {
        uint64_t page = run->gfn - tracker->base_gfn + i;

        if (page >= tracker->pages || !tracker->kinds[page] || run->mfn != run->gfn)
            recorder_fail("the engine harvests page %#lx, which nobody touched", (long)page);
        touched[i] = (uint32_t)(page << KIND_BITS | tracker->kinds[page]);
        __atomic_store_n(&tracker->kinds[page], 0, __ATOMIC_RELAXED);
    }
    return run->nr;
}

static void compare(struct tracker *tracker, const uint32_t *touched, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t page = touched[i] >> KIND_BITS;
        uint64_t bit = (uint64_t)1 << page % WORD_BITS;

        if (!(tracker->plain[page / WORD_BITS] & bit))
            recorder_fail("self-check: page %#x was harvested, and not touched", page);
        tracker->plain[page / WORD_BITS] &= ~bit;
    }
    for (uint64_t page = 0; page < tracker->pages; page++)
        if (tracker->plain[page / WORD_BITS] >> page % WORD_BITS & 1)
            recorder_fail("self-check: page %#lx was touched, and not harvested", (long)page);
}

size_t tracker_harvest(struct tracker *tracker, uint32_t *touched)
{
    static p2mfast_run_t runs[HARVEST_RUNS]; /* the mutex is held */
    uint64_t cursor = 0;
    size_t total = 0, n;
    int more;

    do {
        more = p2mfast_harvest(tracker->p2m, &cursor, runs, HARVEST_RUNS, &n);
        if (more < 0)
            recorder_fail("the engine does not harvest: %s", p2mfast_error_words(more));
        for (size_t i = 0; i < n; i++)
            total += collect(tracker, &runs[i], touched + total);
    } while (more);
    for (uint64_t page = 0; page < tracker->pages; page++)
        if (tracker->kinds[page])
            recorder_fail("the engine loses page %#lx, which was touched", (long)page);
    if (tracker->plain)
        compare(tracker, touched, total);
    return total;
}
