/*
 * Range cache flush, preemptible: which pages are to be cleaned (Xen's p2m_cache_flush_range).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "runs.h"

/* Xen's units of work. */
#define WORK_REGION 1
#define WORK_PAGE 10

struct cleaning {
    p2mfast_flush_t *flush;
    struct runs runs;
    uint64_t end;
    uint64_t budget;
    unsigned skip;
    bool full; /* no room for the next run */
};

/* Pages that may be cleaned before the budget is looked at and found used up. A call always makes
 * progress. */
static uint64_t pages_allowed(const struct cleaning *cleaning)
{
    const p2mfast_flush_t *flush = cleaning->flush;

    if (flush->work >= cleaning->budget)
        return flush->progressed ? 0 : 1;
    return (cleaning->budget - flush->work - 1) / WORK_PAGE + 1;
}

static bool must_stop(const struct cleaning *cleaning)
{
    return cleaning->full || !pages_allowed(cleaning);
}

static bool is_to_be_cleaned(const struct cleaning *cleaning, uint64_t pte)
{
    return pte_is_any_ram(pte) && (cleaning->skip == P2MFAST_SKIP_NONE || pte_is_valid(pte));
}

static void skip_region(struct cleaning *cleaning, uint64_t next)
{
    cleaning->flush->next_gfn = next;
    cleaning->flush->work += WORK_REGION;
    cleaning->flush->progressed = 1;
}

static void clean_pages(struct cleaning *cleaning, uint64_t mfn, uint64_t most)
{
    p2mfast_flush_t *flush = cleaning->flush;
    uint64_t nr = min_u64(min_u64(most, cleaning->end - flush->next_gfn), pages_allowed(cleaning));

    if (!runs_append(&cleaning->runs, flush->next_gfn, mfn, nr)) {
        cleaning->full = true;
        return;
    }
    flush->next_gfn += nr;
    flush->pages += nr;
    flush->work += nr * WORK_PAGE;
    flush->progressed = 1;
}

/* The rest of a last table, from next_gfn on: at once, unless the work has to be counted or room is
 * short. */
static void clean_table(const struct p2mfast *p2m, struct cleaning *cleaning, const uint64_t *table)
{
    const struct geometry *geometry = &p2m->geometry;
    p2mfast_flush_t *flush = cleaning->flush;
    unsigned table_order = level_order(geometry, LEAF_LEVEL - 1);
    uint64_t start = align_down(flush->next_gfn, table_order);
    uint64_t end = min_u64(cleaning->end, next_boundary(start, table_order));

    if (cleaning->budget == P2MFAST_UNLIMITED && runs_fit_table(&cleaning->runs)) {
        flush->pages +=
            runs_append_table(&cleaning->runs, p2m, table, (unsigned)(flush->next_gfn - start),
                              (unsigned)(end - start), start, cleaning->skip == P2MFAST_SKIP_NONE);
        flush->next_gfn = end;
        flush->progressed = 1;
        return;
    }
    cleaning->full = cleaning->budget == P2MFAST_UNLIMITED && runs_could_fit_table(&cleaning->runs);
    while (flush->next_gfn < end && !must_stop(cleaning)) {
        uint64_t pte = pte_read(table + level_index(geometry, LEAF_LEVEL, flush->next_gfn));

        if (is_to_be_cleaned(cleaning, pte))
            clean_pages(cleaning, pte_mfn(geometry, pte), 1);
        else
            skip_region(cleaning, flush->next_gfn + 1);
    }
}

/* From next_gfn on, entries of one table above the last level under which nothing is to be cleaned;
 * the first is known to be one. */
static void skip_entries(const struct p2mfast *p2m, struct cleaning *cleaning,
                         const uint64_t *table, int level, bool reachable)
{
    const struct geometry *geometry = &p2m->geometry;
    p2mfast_flush_t *flush = cleaning->flush;
    unsigned order = level_order(geometry, level);
    uint64_t first = level_index(geometry, level, flush->next_gfn);
    /* Up to the entry that holds the end, or to the table's. */
    uint64_t words = min_u64(level_words(geometry, level), first + ((cleaning->end - 1) >> order) -
                                                               (flush->next_gfn >> order) + 1);
    bool only_valid = cleaning->skip == P2MFAST_SKIP_PATH;

    for (;;) {
        uint64_t index = level_index(geometry, level, flush->next_gfn) + 1;
        uint64_t next = index;
        uint64_t pte;

        if (only_valid && cleaning->budget == P2MFAST_UNLIMITED)
            next = reachable ? p2m_next_valid(p2m, table, index, words) : words;
        skip_region(cleaning, next_boundary(flush->next_gfn, order) + ((next - index) << order));
        if (next == words || must_stop(cleaning))
            return;
        pte = pte_read(table + next);
        if (pte_is_present(geometry, pte) && (!only_valid || (reachable && pte_is_valid(pte))))
            return;
    }
}

/* Whatever one walk from next_gfn finds: a hole, a block, a last table, or an armed subtree. */
static void clean_region(struct p2mfast *p2m, struct cleaning *cleaning)
{
    const struct geometry *geometry = &p2m->geometry;
    p2mfast_flush_t *flush = cleaning->flush;
    const uint64_t *table = p2m->root;
    struct walk walk;

    walk_start(geometry, &walk, flush->next_gfn);
    for (;;) {
        int level = walk.level;
        uint64_t boundary = next_boundary(flush->next_gfn, level_order(geometry, level));
        bool reachable = walk.reachable;
        enum walk_outcome outcome;

        if (level == LEAF_LEVEL) {
            clean_table(p2m, cleaning, table);
            return;
        }
        outcome = walk_step(geometry, WALK_SOFTWARE, &walk,
                            pte_read(table + level_index(geometry, level, flush->next_gfn)));
        if (outcome == WALK_HOLE || (cleaning->skip == P2MFAST_SKIP_PATH && !walk.reachable)) {
            skip_entries(p2m, cleaning, table, level, reachable);
            return;
        }
        if (outcome == WALK_LEAF) {
            if (is_to_be_cleaned(cleaning, walk.pte))
                clean_pages(cleaning, walk_leaf_mfn(geometry, &walk), boundary - flush->next_gfn);
            else
                skip_region(cleaning, boundary);
            return;
        }
        table = p2m_table(p2m, walk.table_mfn);
        if (!table) {
            skip_region(cleaning, boundary);
            return;
        }
    }
}

int p2mfast_cache_flush_range(p2mfast_t *p2m, p2mfast_flush_t *flush, uint64_t end, unsigned skip,
                              uint64_t budget, p2mfast_run_t *runs, size_t capacity, size_t *n)
{
    struct cleaning cleaning = {flush, {runs, capacity, 0}, 0, budget, skip, false};

    *n = 0;
    if (skip > P2MFAST_SKIP_PATH || !capacity)
        return P2MFAST_ERROR_ARGUMENT;
    p2m_lock(p2m);
    flush->next_gfn = max_u64(flush->next_gfn, p2m->lowest_mapped_gfn);
    cleaning.end = min_u64(end, p2m->max_mapped_gfn + 1);
    while (flush->next_gfn < cleaning.end && !must_stop(&cleaning))
        clean_region(p2m, &cleaning);
    p2m_unlock(p2m);
    *n = cleaning.runs.n;
    flush->done = flush->next_gfn >= cleaning.end;
    if (cleaning.full && !flush->done)
        return 1;
    flush->work = 0;
    flush->progressed = 0;
    return 0;
}
