/* SPDX-License-Identifier: Apache-2.0 */
#include "tlb.h"
#include "pool.h"

#include <string.h>

/* Of one table frame. */
struct lines {
    uint64_t words[TABLE_WORDS];  /* the descriptor as cached; 0: not cached */
    uint32_t seen[TABLE_WORDS];   /* when it was last reached */
    uint32_t synced[TABLE_WORDS]; /* the same, at a barrier */
    uint64_t made[TABLE_WORDS];   /* the descriptor in the table at the last barrier */
    uint32_t barrier;             /* when any of its words was, at a barrier */
    unsigned n;                   /* words cached */
    int level;                    /* where the table was when they were */
    uint64_t gfn;
};

static struct lines lines[POOL_FRAMES];
static const struct p2mfast *watched;
static uint32_t now;
static uint32_t last_barrier;

void tlb_reset(const struct p2mfast *p2m)
{
    memset(lines, 0, sizeof(lines));
    watched = p2m;
    now = 0;
    last_barrier = UINT32_MAX;
}

static void observe_table(uint64_t frame, int level, uint64_t gfn);

/* mem_access changes rights in place, which the architecture allows of a leaf. */
static bool only_rights_differ(uint64_t old, uint64_t pte, int level)
{
    return watched->mem_access && level == LEAF_LEVEL && !((old ^ pte) & ~PTE_RIGHTS);
}

static void observe_word(struct lines *table, unsigned i, uint64_t pte, int level, uint64_t gfn)
{
    const struct geometry *geometry = &watched->geometry;

    if (!table->words[i])
        table->n++;
    else if (table->words[i] != pte && !only_rights_differ(table->words[i], pte, level))
        CHECK(!"a live descriptor was changed without an invalidation in between");
    /* The old rights stay cached, too, until they are invalidated. */
    if (!table->words[i] || !only_rights_differ(table->words[i], pte, level))
        table->words[i] = pte;
    table->seen[i] = now;
    if (now == last_barrier) {
        table->synced[i] = table->barrier = now;
        table->made[i] = pte;
    } else if (table->synced[i] != last_barrier || table->made[i] != pte)
        CHECK(!"a descriptor was made, and no barrier followed");
    if (level < LEAF_LEVEL && pte & PTE_TABLE)
        observe_table(pte_mfn(geometry, pte) - watched->platform.base_mfn, level + 1, gfn);
}

static void observe_table(uint64_t frame, int level, uint64_t gfn)
{
    const uint64_t *memory = watched->platform.memory + frame * TABLE_WORDS;
    struct lines *table;

    if (!CHECK(frame < watched->platform.frames))
        return;
    table = &lines[frame];
    if (table->n && (table->level != level || table->gfn != gfn))
        CHECK(!"a table was moved while the MMU could still know it");
    table->level = level;
    table->gfn = gfn;
    for (unsigned i = 0; i < TABLE_WORDS; i++)
        if (pte_is_valid(memory[i]))
            observe_word(table, i, memory[i], level,
                         gfn + i * level_pages(&watched->geometry, level));
}

static void observe(void)
{
    const struct geometry *geometry = &watched->geometry;
    uint64_t pages = level_pages(geometry, geometry->root_level) * TABLE_WORDS;

    for (unsigned i = 0; i < geometry->root_pages; i++)
        observe_table(watched->root_frame + i, geometry->root_level, i * pages);
}

/* What could be reached at the last barrier and cannot be now was broken since. */
static void check_barrier(void)
{
    for (unsigned frame = 0; frame < POOL_FRAMES; frame++)
        for (unsigned i = 0; lines[frame].barrier == last_barrier && i < TABLE_WORDS; i++)
            if (lines[frame].synced[i] == last_barrier && lines[frame].seen[i] != now)
                CHECK(!"a descriptor was broken, and no barrier followed");
}

void tlb_observe(void)
{
    now++;
    observe();
    check_barrier();
}

void tlb_barrier(void)
{
    last_barrier = ++now;
    observe();
}

static void invalidate_table(struct lines *table, uint64_t gfn, uint64_t nr)
{
    uint64_t pages = level_pages(&watched->geometry, table->level);

    for (unsigned i = 0; table->n && i < TABLE_WORDS; i++) {
        uint64_t first = table->gfn + i * pages;

        /* Part of a block is not enough: what is cached of it may be in smaller pieces. */
        if (table->words[i] && first >= gfn && first + pages <= gfn + nr) {
            table->words[i] = 0;
            table->n--;
        }
    }
}

void tlb_invalidate(uint64_t gfn, uint64_t nr)
{
    for (unsigned frame = 0; frame < POOL_FRAMES; frame++)
        if (lines[frame].n)
            invalidate_table(&lines[frame], gfn, nr);
}

bool tlb_knows_frame(uint64_t frame)
{
    uint64_t mfn = watched->platform.base_mfn + frame;

    if (lines[frame].n)
        return true;
    for (unsigned other = 0; other < POOL_FRAMES; other++) {
        if (!lines[other].n || lines[other].level == LEAF_LEVEL)
            continue;
        for (unsigned i = 0; i < TABLE_WORDS; i++)
            if (lines[other].words[i] & PTE_TABLE &&
                pte_mfn(&watched->geometry, lines[other].words[i]) == mfn)
                return true;
    }
    return false;
}

bool tlb_is_stale(void)
{
    tlb_observe();
    for (unsigned frame = 0; frame < POOL_FRAMES; frame++)
        for (unsigned i = 0; lines[frame].n && i < TABLE_WORDS; i++)
            if (lines[frame].words[i] &&
                (lines[frame].seen[i] != now ||
                 lines[frame].words[i] != watched->platform.memory[frame * TABLE_WORDS + i]))
                return true;
    return false;
}
