/* SPDX-License-Identifier: Apache-2.0 */
#define _DEFAULT_SOURCE
#include "arena.h"
#include "geometry.h"
#include "platform.h"
#include "p2mfast/p2mfast.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int arena_init(struct arena *arena, uint64_t frames)
{
    long machine = sysconf(_SC_PHYS_PAGES);
    long page = sysconf(_SC_PAGESIZE);
    void *memory;

    /* Tables that fill the machine's memory would be killed with their process; an error is
     * better. */
    if (machine > 0 && page > 0) {
        uint64_t fits = (uint64_t)machine * ((uint64_t)page / TABLE_BYTES);

        frames = frames < fits ? frames : fits;
    }
    memory = mmap(NULL, frames * TABLE_BYTES, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return P2MFAST_ERROR_MEMORY;
    *arena = (struct arena){memory, frames, 0, 0, NO_FRAME};
    return 0;
}

void arena_destroy(struct arena *arena)
{
    munmap(arena->memory, arena->frames * TABLE_BYTES);
}

uint64_t arena_take_roots(struct arena *arena, unsigned count)
{
    if (arena->in_range || count > arena->frames)
        return NO_FRAME;
    arena->in_range = count;
    return 0;
}

bool arena_can_take(const struct arena *arena, uint64_t count)
{
    return count <= arena->free + (arena->frames - arena->in_range);
}

/* The chain runs through word 0 of each free frame, as next frame + 1 where a descriptor has its
 * address: a hole to a reader that comes late. */
uint64_t arena_take(struct arena *arena, bool zeroed)
{
    uint64_t frame = arena->recycled;
    uint64_t *table;

    if (frame == NO_FRAME) /* fresh from the kernel: zeroed */
        return arena->in_range < arena->frames ? arena->in_range++ : NO_FRAME;
    table = arena->memory + frame * TABLE_WORDS;
    arena->recycled = (table[0] >> PAGE_SHIFT) - 1;
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
