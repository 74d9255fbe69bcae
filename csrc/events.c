/* SPDX-License-Identifier: Apache-2.0 */
#include "events.h"

#include <string.h>

#define NO_EVENT SIZE_MAX

int events_init(struct events *events, const struct heap *heap)
{
    *events = (struct events){.heap = heap, .last_removal = NO_EVENT};
    return events_reserve_removed(events, 0);
}

void events_destroy(struct events *events)
{
    heap_give(events->heap, events->events);
}

/* Keep the waiting events that are not of kind `drop`, from the start of the array on. */
static void compact(struct events *events, uint32_t drop)
{
    size_t kept = 0;

    for (size_t i = events->first; i < events->n; i++)
        if (events->events[i].kind != drop)
            events->events[kept++] = events->events[i];
    events->first = 0;
    events->n = kept;
    events->last_removal = NO_EVENT;
}

static int reserve(struct events *events, uint64_t more)
{
    /* One place is kept for the invalidation that stands for all. */
    size_t need = events->n - events->first + more + 1;
    p2mfast_event_t *larger;

    if (need <= events->capacity - events->first)
        return 0;
    compact(events, 0);
    if (need <= events->capacity)
        return 0;
    need = need < 2 * events->capacity ? 2 * events->capacity : need;
    larger = heap_take(events->heap, need * sizeof(*larger));
    if (!larger)
        return P2MFAST_ERROR_MEMORY;
    if (events->n)
        memcpy(larger, events->events, events->n * sizeof(*larger));
    heap_give(events->heap, events->events);
    events->events = larger;
    events->capacity = need;
    return 0;
}

/* Every run may be followed by an invalidation, so room is kept for those as well. */
int events_reserve_removed(struct events *events, uint64_t runs)
{
    return reserve(events, runs ? runs + MAX_TLB_EVENTS : 16);
}

bool events_invalidated(struct events *events, uint64_t gfn, uint64_t nr, uint64_t limit)
{
    bool room = events->invalidations < MAX_TLB_EVENTS && !reserve(events, 1);

    if (!room) {
        compact(events, P2MFAST_EVENT_TLB_INVALIDATE);
        events->invalidations = 0;
        gfn = 0;
        nr = limit;
    }
    events->events[events->n++] =
        (p2mfast_event_t){gfn, nr, P2MFAST_INVALID_MFN, P2MFAST_EVENT_TLB_INVALIDATE, 0};
    events->invalidations++;
    return room;
}

/* A run grows across the invalidations that come between its parts: there are never more runs
 * than leaves were there, which is what was reserved. */
void events_removed(struct events *events, uint64_t gfn, uint64_t mfn, uint64_t nr, unsigned type)
{
    if (events->last_removal != NO_EVENT) {
        p2mfast_event_t *last = &events->events[events->last_removal];

        if (last->type == type && last->gfn + last->nr == gfn && last->mfn + last->nr == mfn) {
            last->nr += nr;
            return;
        }
    }
    events->last_removal = events->n;
    events->events[events->n++] =
        (p2mfast_event_t){gfn, nr, mfn, P2MFAST_EVENT_MAPPING_REMOVED, type};
}

size_t events_waiting(const struct events *events)
{
    return events->n - events->first;
}

size_t events_drain(struct events *events, p2mfast_event_t *taken, size_t capacity)
{
    size_t n = 0;

    for (; n < capacity && events->first < events->n; n++) {
        taken[n] = events->events[events->first++];
        if (taken[n].kind == P2MFAST_EVENT_TLB_INVALIDATE)
            events->invalidations--;
    }
    events->last_removal = NO_EVENT;
    if (events->first == events->n)
        events->first = events->n = 0;
    return n;
}
