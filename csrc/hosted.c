/*
 * The hosted platform: a P2M in a process of an operating system, with its own table memory
 * (arena.c), a mutex, and a queue of events.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define _DEFAULT_SOURCE
#include "hosted.h"

#include <stdlib.h>
#include <string.h>

#define MAX_ARENA_BYTES ((uint64_t)64 << 30)

#define SIDE_HEADER 64 /* a cache line */

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
    struct hosted *hosted = context;
    uint64_t limit = hosted->p2m.geometry.gfn_limit;
    const p2mfast_invalidation_t invalidation = {
        gfn, nr, hosted->p2m.vmid, nr == limit ? P2MFAST_SCOPE_VMID : P2MFAST_SCOPE_RANGE};

    if (hosted->config.tlb_invalidate)
        hosted->config.tlb_invalidate(hosted->config.context, &invalidation);
    else if (!events_invalidated(&hosted->events, gfn, nr, limit))
        hosted_log(hosted, "TLB invalidations that nobody drained have become one of everything");
}

static int reserve_removed(void *context, uint64_t runs)
{
    return events_reserve_removed(&((struct hosted *)context)->events, runs);
}

static void mapping_removed(void *context, uint64_t gfn, uint64_t mfn, uint64_t nr, unsigned type)
{
    events_removed(&((struct hosted *)context)->events, gfn, mfn, nr, type);
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
    void **block = heap_take(&hosted->heap, TABLE_BYTES + SIDE_HEADER);

    if (!block) {
        hosted_log(hosted, "no memory for mem_access");
        return NULL;
    }
    memset(block, 0, TABLE_BYTES + SIDE_HEADER);
    *block = hosted->side_pages;
    hosted->side_pages = block;
    return (char *)block + SIDE_HEADER;
}

static void *scratch(void *context, size_t bytes)
{
    return heap_take(&((struct hosted *)context)->heap, bytes);
}

static void release_scratch(void *context, void *memory)
{
    heap_give(&((struct hosted *)context)->heap, memory);
}

void hosted_log(const struct hosted *hosted, const char *message)
{
    if (hosted->config.log)
        hosted->config.log(hosted->config.context, message);
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

/* Frames to reserve: no more than the space or MAX_ARENA_BYTES can use; the quota may be raised. 0:
 * the base is misaligned or the root tables do not fit behind it. */
static uint64_t frames_to_reserve(const struct geometry *geometry, const p2mfast_config_t *config,
                                  uint64_t base)
{
    uint64_t physical = (uint64_t)1 << (config->pa_bits - PAGE_SHIFT);
    uint64_t tables = geometry_all_tables(geometry);
    uint64_t most = config->table_memory ? config->table_frames : MAX_ARENA_BYTES / TABLE_BYTES;
    uint64_t frames = min_u64(tables + geometry->root_pages, most);

    if (base % geometry->root_pages || base >= physical || physical - base < geometry->root_pages)
        return 0;
    return min_u64(frames, physical - base);
}

static p2mfast_platform_t platform_of(struct hosted *hosted, uint64_t base)
{
    return (p2mfast_platform_t){
        .context = hosted,
        .vec = choose_vec(),
        .memory = hosted->arena.memory,
        .base_mfn = base,
        .frames = hosted->arena.frames,
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
}

/* What a config can get wrong that needs no geometry. */
static int check_config(const p2mfast_config_t *config)
{
    if (config->size != sizeof(*config))
        return P2MFAST_ERROR_ABI;
    if (!config->allocate != !config->release)
        return P2MFAST_ERROR_ARGUMENT;
    if (!config->table_memory)
        return config->table_frames ? P2MFAST_ERROR_ARGUMENT : 0;
    if ((uintptr_t)config->table_memory % sizeof(uint64_t))
        return P2MFAST_ERROR_ARGUMENT;
    return config->table_base_mfn == P2MFAST_INVALID_MFN ? P2MFAST_ERROR_TABLE_BASE : 0;
}

static int init_tables(struct hosted *hosted, const p2mfast_config_t *config)
{
    struct geometry geometry;
    int error = geometry_init(&geometry, config->ipa_bits, config->pa_bits, config->vmid);
    uint64_t base = config->table_base_mfn;
    p2mfast_platform_t platform;
    uint64_t frames;

    if (error)
        return error;
    if (config->table_memory && config->table_frames < geometry.root_pages)
        return P2MFAST_ERROR_TABLES;
    if (base == P2MFAST_INVALID_MFN)
        base = default_base(config->pa_bits);
    frames = frames_to_reserve(&geometry, config, base);
    if (!frames)
        return P2MFAST_ERROR_TABLE_BASE;
    error = arena_init(&hosted->arena, frames, config->table_memory);
    if (error)
        return error;
    platform = platform_of(hosted, base);
    error = p2m_init(&hosted->p2m, &platform, config);
    if (error)
        arena_destroy(&hosted->arena);
    return error;
}

struct hosted *hosted_create(const p2mfast_config_t *config, int *error)
{
    const struct heap heap = {config->context, config->allocate, config->release};
    struct hosted *hosted;

    *error = check_config(config);
    if (*error)
        return NULL;
    hosted = heap_take(&heap, sizeof(*hosted));
    *error = P2MFAST_ERROR_MEMORY;
    if (!hosted)
        return NULL;
    memset(hosted, 0, sizeof(*hosted));
    hosted->heap = heap;
    hosted->config = *config;
    *error = events_init(&hosted->events, &hosted->heap);
    if (!*error)
        *error = init_tables(hosted, config);
    if (!*error) {
        pthread_mutex_init(&hosted->mutex, NULL);
        return hosted;
    }
    events_destroy(&hosted->events);
    heap_give(&heap, hosted);
    return NULL;
}

p2mfast_t *p2mfast_create_with_error(const p2mfast_config_t *config, int *error)
{
    static const p2mfast_config_t standard = P2MFAST_CONFIG_DEFAULT;
    int result;
    struct hosted *hosted = hosted_create(config ? config : &standard, &result);

    if (error)
        *error = result;
    return hosted ? &hosted->p2m : NULL;
}

p2mfast_t *p2mfast_create(const p2mfast_config_t *config)
{
    return p2mfast_create_with_error(config, NULL);
}

void p2mfast_destroy(p2mfast_t *p2m)
{
    struct hosted *hosted = (struct hosted *)p2m;
    struct heap heap;

    if (!hosted)
        return;
    heap = hosted->heap;
    while (hosted->side_pages) {
        void *before = *(void **)hosted->side_pages;

        heap_give(&heap, hosted->side_pages);
        hosted->side_pages = before;
    }
    arena_destroy(&hosted->arena);
    pthread_mutex_destroy(&hosted->mutex);
    events_destroy(&hosted->events);
    heap_give(&heap, hosted);
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
    size_t n;

    p2m_lock(p2m);
    n = events_waiting(&((struct hosted *)p2m)->events);
    p2m_unlock(p2m);
    return n;
}

size_t p2mfast_drain_events(p2mfast_t *p2m, p2mfast_event_t *events, size_t capacity)
{
    size_t n;

    p2m_lock(p2m);
    n = events_drain(&((struct hosted *)p2m)->events, events, capacity);
    p2m_unlock(p2m);
    return n;
}
