/* SPDX-License-Identifier: Apache-2.0 */
#define _DEFAULT_SOURCE
#include "arena.h"
#include "geometry.h"
#include "platform.h"
#include "p2mfast/p2mfast.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SMALL_FRAMES 256
#define STEP_BYTES ((size_t)2 << 20)
#define STEP_FRAMES (STEP_BYTES / TABLE_BYTES)

#ifndef MADV_POPULATE_WRITE /* Linux 5.14; older ones refuse it, and fault pages in as they are    \
                               used */
#define MADV_POPULATE_WRITE 23
#endif

/* Tables that fill the machine's memory would be killed with their process; an error is better. */
static uint64_t frames_of_machine(void)
{
    long pages = sysconf(_SC_PHYS_PAGES);
    long bytes = sysconf(_SC_PAGESIZE);

    return pages > 0 && bytes > 0 ? (uint64_t)pages * ((uint64_t)bytes / TABLE_BYTES) : UINT64_MAX;
}

int arena_init(struct arena *arena, uint64_t frames, void *memory)
{
    uint64_t fits = frames_of_machine();
    size_t bytes;
    uintptr_t start;
    void *range;

    if (memory) {
        *arena = (struct arena){
            .memory = memory, .frames = frames, .ready = frames, .recycled = NO_FRAME};
        return 0;
    }
    frames = frames < fits ? frames : fits;
    /* Room to put the first step, behind the small frames, at a multiple of its size. */
    bytes = frames * TABLE_BYTES + (frames > SMALL_FRAMES ? STEP_BYTES : 0);
    range = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                 -1, 0);
    if (range == MAP_FAILED)
        return P2MFAST_ERROR_MEMORY;
    start = (uintptr_t)range;
    if (frames > SMALL_FRAMES) {
        start += SMALL_FRAMES * TABLE_BYTES + STEP_BYTES - 1;
        start -= start % STEP_BYTES + SMALL_FRAMES * TABLE_BYTES;
    }
    *arena = (struct arena){.memory = (uint64_t *)start,
                            .frames = frames,
                            .ready = SMALL_FRAMES,
                            .range = range,
                            .range_bytes = bytes,
                            .recycled = NO_FRAME};
    return 0;
}

void arena_destroy(struct arena *arena)
{
    if (arena->range)
        munmap(arena->range, arena->range_bytes);
}

/* One fault for a step instead of one a table. What the machine refuses is faulted in later. */
static void make_step_ready(struct arena *arena)
{
    uint64_t left = arena->frames - arena->ready;
    void *step = arena->memory + arena->ready * TABLE_WORDS;

    if (left >= STEP_FRAMES) {
        (void)madvise(step, STEP_BYTES, MADV_HUGEPAGE);
        (void)madvise(step, STEP_BYTES, MADV_POPULATE_WRITE);
    }
    arena->ready += STEP_FRAMES;
}

uint64_t arena_take_roots(struct arena *arena, unsigned count)
{
    if (arena->in_range || count > arena->frames)
        return NO_FRAME;
    if (!arena->range)
        memset(arena->memory, 0, (size_t)count * TABLE_BYTES);
    arena->in_range = count;
    return 0;
}

void arena_take_rows(struct arena *arena, uint64_t rows)
{
    while (arena->ready < rows)
        make_step_ready(arena);
    arena->in_range = rows;
}

bool arena_can_take(const struct arena *arena, uint64_t count)
{
    return count <= arena->free + (arena->frames - arena->in_range);
}

/* The chain runs through word 0 of each free frame, as next frame + 1 where a descriptor has its
 * address: a hole to a reader that comes late. */
uint64_t arena_next_free(const struct arena *arena, uint64_t frame)
{
    return (arena->memory[frame * TABLE_WORDS] >> PAGE_SHIFT) - 1;
}

uint64_t arena_take(struct arena *arena, bool zeroed)
{
    uint64_t frame = arena->recycled;
    uint64_t *table;

    if (frame == NO_FRAME) { /* a fresh one, which the kernel has zeroed; the embedder need not */
        if (arena->in_range == arena->frames)
            return NO_FRAME;
        if (arena->in_range == arena->ready)
            make_step_ready(arena);
        if (zeroed && !arena->range)
            memset(arena->memory + arena->in_range * TABLE_WORDS, 0, TABLE_BYTES);
        return arena->in_range++;
    }
    table = arena->memory + frame * TABLE_WORDS;
    arena->recycled = arena_next_free(arena, frame);
    arena->free--;
    if (zeroed)
        memset(table, 0, TABLE_BYTES);
    return frame;
}

void arena_give(struct arena *arena, uint64_t frame)
{
    uint64_t *word = arena->memory + frame * TABLE_WORDS;

    __atomic_store_n(word, (arena->recycled + 1) << PAGE_SHIFT, __ATOMIC_RELAXED);
    arena->recycled = frame;
    arena->free++;
}

uint64_t arena_bytes(const struct arena *arena)
{
    uint64_t frames = arena->ready > SMALL_FRAMES ? arena->ready : arena->in_range;

    if (!arena->range)
        frames = arena->in_range;
    return (frames < arena->frames ? frames : arena->frames) * TABLE_BYTES;
}
