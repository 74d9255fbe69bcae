/*
 * What the tables hold: every word, and every mapping as coalesced runs.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "p2m.h"

/* A pointer that leads outside the table memory is listed as a word, and not followed. */
struct listing {
    int level; /* words of this level only; mapped runs: unused */
    p2mfast_word_t *words;
    p2mfast_mapped_run_t *runs;
    p2mfast_mapped_run_t last; /* the run that may still grow */
    size_t capacity;
    size_t n;
    uint64_t from; /* mapped runs: the first page */
    bool stops;    /* after one run */
};

static void list_words(const struct p2mfast *p2m, struct listing *listing, const uint64_t *table,
                       int level, uint64_t gfn)
{
    const struct geometry *geometry = &p2m->geometry;
    uint64_t words = table ? level_words(geometry, level) : 0;

    for (uint64_t i = 0; i < words; i++) {
        uint64_t pte = pte_read(&table[i]);
        uint64_t first = gfn + i * level_pages(geometry, level);

        if (!pte)
            continue;
        if (level == listing->level) {
            if (listing->n < listing->capacity)
                listing->words[listing->n] = (p2mfast_word_t){first, pte, (int8_t)level, {0}};
            listing->n++;
        } else if (pte_is_present(geometry, pte) && pte_is_table(pte, level)) {
            list_words(p2m, listing, p2m_next_table(p2m, pte), level + 1, first);
        }
    }
}

size_t p2mfast_words(p2mfast_t *p2m, int level, p2mfast_word_t *words, size_t capacity)
{
    struct listing listing = {.level = level, .words = words, .capacity = capacity};

    p2m_lock(p2m);
    if (level >= p2m->geometry.root_level && level <= LEAF_LEVEL)
        list_words(p2m, &listing, p2m->root, p2m->geometry.root_level, 0);
    p2m_unlock(p2m);
    return listing.n;
}

static void close_run(struct listing *listing)
{
    if (!listing->last.nr)
        return;
    if (listing->n < listing->capacity)
        listing->runs[listing->n] = listing->last;
    listing->n++;
}

static void add_mapping(struct listing *listing, p2mfast_mapped_run_t run)
{
    p2mfast_mapped_run_t *last = &listing->last;

    if (last->nr && last->gfn + last->nr == run.gfn && last->mfn + last->nr == run.mfn &&
        last->type == run.type) {
        last->nr += run.nr;
        return;
    }
    close_run(listing);
    *last = run;
}

/* Those at or behind listing->from; when as many runs as there is room for are closed, it may stop
 * (listing->stops). */
static void list_mappings(const struct p2mfast *p2m, struct listing *listing, const uint64_t *table,
                          int level, uint64_t gfn)
{
    const struct geometry *geometry = &p2m->geometry;
    uint64_t words = table ? level_words(geometry, level) : 0;
    uint64_t pages = level_pages(geometry, level);
    uint64_t before = listing->from > gfn ? (listing->from - gfn) / pages : 0;

    for (uint64_t i = before; i < words && !(listing->stops && listing->n); i++) {
        uint64_t pte = pte_read(&table[i]);
        uint64_t first = gfn + i * pages;
        uint64_t skipped = listing->from > first ? listing->from - first : 0;

        if (!pte_is_present(geometry, pte))
            continue;
        if (pte_is_table(pte, level))
            list_mappings(p2m, listing, p2m_next_table(p2m, pte), level + 1, first);
        else
            add_mapping(listing,
                        (p2mfast_mapped_run_t){first + skipped, pte_mfn(geometry, pte) + skipped,
                                               pages - skipped, pte_type(pte)});
    }
}

size_t p2mfast_mapped_runs(p2mfast_t *p2m, p2mfast_mapped_run_t *runs, size_t capacity)
{
    struct listing listing = {.runs = runs, .capacity = capacity};

    p2m_lock(p2m);
    list_mappings(p2m, &listing, p2m->root, p2m->geometry.root_level, 0);
    p2m_unlock(p2m);
    close_run(&listing);
    return listing.n;
}

int p2mfast_next_run(p2mfast_t *p2m, uint64_t *gfn, p2mfast_mapped_run_t *run)
{
    struct listing listing = {.runs = run, .capacity = 1, .from = *gfn, .stops = true};

    if (*gfn >= p2m->geometry.gfn_limit)
        return 0;
    p2m_lock(p2m);
    list_mappings(p2m, &listing, p2m->root, p2m->geometry.root_level, 0);
    p2m_unlock(p2m);
    if (!listing.n)
        close_run(&listing);
    if (!listing.n)
        return 0;
    *gfn = run->gfn + run->nr;
    return 1;
}
