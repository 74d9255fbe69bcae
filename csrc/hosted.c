/*
 * The hosted platform: a P2M in a process of an operating system, with its own table memory
 * (arena.c), a mutex, and a queue of events.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define _DEFAULT_SOURCE
#include "arena.h"
#include "p2m.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TLB_EVENTS 4096
#define MAX_ARENA_BYTES ((uint64_t)64 << 30)

#define NO_EVENT SIZE_MAX

#define SIDE_HEADER 64 /* a cache line */

struct queue {
    p2mfast_event_t *events;
    size_t first; /* oldest that was not drained */
    size_t n;     /* one behind the newest */
    size_t capacity;
    size_t invalidations; /* of the waiting ones */
    size_t last_removal;  /* the one that may still grow, or NO_EVENT */
};

struct hosted {
    struct p2mfast p2m; /* first: a p2mfast_t is a struct hosted */
    struct arena arena;
    pthread_mutex_t mutex;
    struct queue queue;
    void *side_pages; /* the one given last */
};

/* ---- The queue of events ---- */

/* Keep the waiting events that are not of kind `drop`, from the start of the array on. */
static void queue_compact(struct queue *queue, uint32_t drop)
{
    size_t kept = 0;

    for (size_t i = queue->first; i < queue->n; i++)
        if (queue->events[i].kind != drop)
            queue->events[kept++] = queue->events[i];
    queue->first = 0;
    queue->n = kept;
    queue->last_removal = NO_EVENT;
}

static int queue_reserve(struct queue *queue, uint64_t more)
{
    /* One place is kept for the invalidation that stands for all. */
    size_t need = queue->n - queue->first + more + 1;
    p2mfast_event_t *events;

    if (need <= queue->capacity - queue->first)
        return 0;
    queue_compact(queue, 0);
    if (need <= queue->capacity)
        return 0;
    need = need < 2 * queue->capacity ? 2 * queue->capacity : need;
    events = realloc(queue->events, need * sizeof(*events));
    if (!events)
        return P2MFAST_ERROR_MEMORY;
    queue->events = events;
    queue->capacity = need;
    return 0;
}

static void queue_invalidation(struct hosted *hosted, uint64_t gfn, uint64_t nr)
{
    struct queue *queue = &hosted->queue;

    if (queue->invalidations >= MAX_TLB_EVENTS || queue_reserve(queue, 1)) {
        queue_compact(queue, P2MFAST_EVENT_TLB_INVALIDATE);
        queue->invalidations = 0;
        gfn = 0;
        nr = hosted->p2m.geometry.gfn_limit;
    }
    queue->events[queue->n++] =
        (p2mfast_event_t){gfn, nr, P2MFAST_INVALID_MFN, P2MFAST_EVENT_TLB_INVALIDATE, 0};
    queue->invalidations++;
}

/* A run grows across the invalidations that come between its parts: there are never more runs
 * than leaves were there, which is what was reserved. */
static void queue_removal(struct queue *queue, uint64_t gfn, uint64_t mfn, uint64_t nr,
                          unsigned type)
{
    if (queue->last_removal != NO_EVENT) {
        p2mfast_event_t *last = &queue->events[queue->last_removal];

        if (last->type == type && last->gfn + last->nr == gfn && last->mfn + last->nr == mfn) {
            last->nr += nr;
            return;
        }
    }
    queue->last_removal = queue->n;
    queue->events[queue->n++] =
        (p2mfast_event_t){gfn, nr, mfn, P2MFAST_EVENT_MAPPING_REMOVED, type};
}

/* ---- platform.h ---- */

static uint64_t take_roots(void *context, unsigned count)
{
    return arena_take_roots(&((struct hosted *)context)->arena, count);
}

static int reserve_tables(void *context, uint64_t count)
{
    return arena_can_take(&((struct hosted *)context)->arena, count) ? 0 : P2MFAST_ERROR_TABLES;
}

static uint64_t take(void *context, bool zeroed)
{
    return arena_take(&((struct hosted *)context)->arena, zeroed);
}

static void give(void *context, uint64_t frame)
{
    arena_give(&((struct hosted *)context)->arena, frame);
}

static void usage(void *context, uint64_t *free_frames, uint64_t *bytes)
{
    const struct arena *arena = &((struct hosted *)context)->arena;

    *free_frames = arena->free;
    *bytes = arena_bytes(arena);
}

static void invalidate_tlb(void *context, uint64_t gfn, uint64_t nr)
{
    queue_invalidation(context, gfn, nr);
}

/* Every run may be followed by an invalidation, so room is kept for those as well. */
static int reserve_removed(void *context, uint64_t runs)
{
    return queue_reserve(&((struct hosted *)context)->queue, runs + MAX_TLB_EVENTS);
}

static void mapping_removed(void *context, uint64_t gfn, uint64_t mfn, uint64_t nr, unsigned type)
{
    queue_removal(&((struct hosted *)context)->queue, gfn, mfn, nr, type);
}

static void lock(void *context)
{
    pthread_mutex_lock(&((struct hosted *)context)->mutex);
}

static void unlock(void *context)
{
    pthread_mutex_unlock(&((struct hosted *)context)->mutex);
}

/* Side pages, chained by a word before each, which lies in the same allocation. */
static void *side_page(void *context)
{
    struct hosted *hosted = context;
    void **block = calloc(1, TABLE_BYTES + SIDE_HEADER);

    if (!block)
        return NULL;
    *block = hosted->side_pages;
    hosted->side_pages = block;
    return (char *)block + SIDE_HEADER;
}

static void *scratch(void *context, size_t bytes)
{
    (void)context;
    return malloc(bytes);
}

static void release_scratch(void *context, void *memory)
{
    (void)context;
    free(memory);
}

/* ---- Life ---- */

/* The loops for this machine. P2MFAST_VEC=portable|avx2|x86-64-v4 takes others, if they can run:
 * tests go through all of them. */
static const struct vec *choose_vec(void)
{
    const struct vec *best = &vec_portable;
    const char *wanted = getenv("P2MFAST_VEC");

    if (wanted && !strcmp(wanted, vec_portable.name))
        return best;
#ifdef VEC_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2"))
        best = &vec_avx2;
    if (wanted && !strcmp(wanted, vec_avx2.name))
        return best;
    if (best == &vec_avx2 && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        best = &vec_v4;
#endif
    return best;
}

/* In the middle of the physical space, at 512 GiB at the most: inside what any core with 40 bits
 * of physical address can walk. */
static uint64_t default_base(unsigned pa_bits)
{
    return (uint64_t)1 << ((pa_bits < 40 ? pa_bits : 40) - 1 - PAGE_SHIFT);
}

/* Frames to reserve: no more than the space, the quota or MAX_ARENA_BYTES can use. 0: the base is
 * misaligned or the root tables do not fit behind it. */
static uint64_t frames_to_reserve(const struct geometry *geometry, const p2mfast_config_t *config,
                                  uint64_t base)
{
    uint64_t physical = (uint64_t)1 << (config->pa_bits - PAGE_SHIFT);
    uint64_t tables = min_u64(geometry_all_tables(geometry), config->max_tables);
    uint64_t frames = min_u64(tables + geometry->root_pages, MAX_ARENA_BYTES / TABLE_BYTES);

    if (base % geometry->root_pages || base >= physical || physical - base < geometry->root_pages)
        return 0;
    return min_u64(frames, physical - base);
}

static int hosted_init(struct hosted *hosted, const p2mfast_config_t *config)
{
    struct geometry geometry;
    int error = geometry_init(&geometry, config->ipa_bits, config->pa_bits, config->vmid);
    uint64_t base = config->table_base_mfn;
    uint64_t frames;
    p2mfast_platform_t platform = {
        .context = hosted,
        .vec = choose_vec(),
        .take_roots = take_roots,
        .reserve = reserve_tables,
        .take = take,
        .give = give,
        .usage = usage,
        .invalidate_tlb = invalidate_tlb,
        .reserve_removed = reserve_removed,
        .mapping_removed = mapping_removed,
        .side_page = side_page,
        .lock = lock,
        .unlock = unlock,
        .scratch = scratch,
        .release_scratch = release_scratch,
    };

    if (error)
        return error;
    if (base == P2MFAST_INVALID_MFN)
        base = default_base(config->pa_bits);
    frames = frames_to_reserve(&geometry, config, base);
    if (!frames)
        return P2MFAST_ERROR_TABLE_BASE;
    hosted->queue.last_removal = NO_EVENT;
    error = queue_reserve(&hosted->queue, 16);
    if (error)
        return error;
    error = arena_init(&hosted->arena, frames);
    if (error)
        return error;
    platform.memory = hosted->arena.memory;
    platform.base_mfn = base;
    platform.frames = hosted->arena.frames;
    error = p2m_init(&hosted->p2m, &platform, config);
    if (error)
        arena_destroy(&hosted->arena);
    else
        pthread_mutex_init(&hosted->mutex, NULL);
    return error;
}

p2mfast_t *p2mfast_create_with_error(const p2mfast_config_t *config, int *error)
{
    static const p2mfast_config_t standard = P2MFAST_CONFIG_DEFAULT;
    struct hosted *hosted = calloc(1, sizeof(*hosted));
    int result = P2MFAST_ERROR_MEMORY;

    if (hosted)
        result = hosted_init(hosted, config ? config : &standard);
    if (error)
        *error = result;
    if (!result)
        return &hosted->p2m;
    if (hosted)
        free(hosted->queue.events);
    free(hosted);
    return NULL;
}

p2mfast_t *p2mfast_create(const p2mfast_config_t *config)
{
    return p2mfast_create_with_error(config, NULL);
}

void p2mfast_destroy(p2mfast_t *p2m)
{
    struct hosted *hosted = (struct hosted *)p2m;

    if (!hosted)
        return;
    while (hosted->side_pages) {
        void *before = *(void **)hosted->side_pages;

        free(hosted->side_pages);
        hosted->side_pages = before;
    }
    arena_destroy(&hosted->arena);
    pthread_mutex_destroy(&hosted->mutex);
    free(hosted->queue.events);
    free(hosted);
}

void p2mfast_tables(p2mfast_t *p2m, const uint64_t **first, uint64_t *rows, uint64_t *base_mfn)
{
    struct hosted *hosted = (struct hosted *)p2m;

    p2m_lock(p2m);
    *first = hosted->arena.memory;
    *rows = hosted->arena.in_range;
    *base_mfn = p2m->platform.base_mfn;
    p2m_unlock(p2m);
}

uint64_t p2mfast_copy_tables(p2mfast_t *p2m, uint64_t *words, uint64_t capacity)
{
    const struct arena *arena = &((struct hosted *)p2m)->arena;
    uint64_t rows;

    p2m_lock(p2m);
    rows = arena->in_range;
    for (uint64_t i = 0; i < min_u64(rows, capacity) * TABLE_WORDS; i++)
        words[i] = __atomic_load_n(&arena->memory[i], __ATOMIC_RELAXED);
    p2m_unlock(p2m);
    return rows;
}

size_t p2mfast_pending_events(p2mfast_t *p2m)
{
    const struct queue *queue = &((struct hosted *)p2m)->queue;
    size_t n;

    p2m_lock(p2m);
    n = queue->n - queue->first;
    p2m_unlock(p2m);
    return n;
}

size_t p2mfast_drain_events(p2mfast_t *p2m, p2mfast_event_t *events, size_t capacity)
{
    struct queue *queue = &((struct hosted *)p2m)->queue;
    size_t n = 0;

    p2m_lock(p2m);
    for (; n < capacity && queue->first < queue->n; n++) {
        events[n] = queue->events[queue->first++];
        if (events[n].kind == P2MFAST_EVENT_TLB_INVALIDATE)
            queue->invalidations--;
    }
    queue->last_removal = NO_EVENT;
    if (queue->first == queue->n)
        queue->first = queue->n = 0;
    p2m_unlock(p2m);
    return n;
}
