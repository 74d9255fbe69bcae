/*
 * Access tracking: arm, resolve, harvest.
 * After Xen's p2m_invalidate_root and p2m_resolve_translation_fault ("xen/arm: Track page accessed
 * between batch of Set/Way operations"); harvest is ours: collect and arm in one step.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "approach.h"
#include "runs.h"

/* Leaf tables one call of p2mfast_harvest goes through at most: it holds the lock. */
#define HARVEST_TABLES 1024

/* Accesses between two chances for another thread to take the lock. */
#define ACCESSES_PER_LOCK 1024

#define MAX_FAULT_AROUND 18

/* ---- Arm ---- */

int p2mfast_invalidate_root(p2mfast_t *p2m)
{
    p2m_lock(p2m);
    p2m_break(p2m, p2m->root, level_words(&p2m->geometry, p2m->geometry.root_level), ~PTE_VALID,
              p2m_whole(p2m), INVALIDATE_NOW);
    p2m->stats.armed++;
    p2m_unlock(p2m);
    return 0;
}

/* ---- Resolve ---- */

static void set_valid(struct p2mfast *p2m, uint64_t *word, uint64_t pte)
{
    p2m_make_word(p2m, word, pte | PTE_VALID);
}

/* Make what is mapped of `pages` valid in one last table. */
static void set_valid_group(struct p2mfast *p2m, uint64_t *table, struct span pages)
{
    for (uint64_t gfn = pages.start; gfn < pages.end; gfn++) {
        uint64_t *word = table + level_index(&p2m->geometry, LEAF_LEVEL, gfn);
        uint64_t pte = pte_read(word);

        if (pte_is_present(&p2m->geometry, pte) && !pte_is_valid(pte))
            set_valid(p2m, word, pte);
    }
}

/* The way to a page: each descriptor on it, read once, and where it lies. */
struct way {
    uint64_t *words[LEVELS];
    uint64_t ptes[LEVELS];
    uint64_t *table; /* the last one */
    int leaf;        /* its level */
    int armed;       /* the first level whose bit 0 is clear; behind the leaf: none is */
};

/* False: nothing is mapped there, or the tree is corrupt. What it needs of the P2M is copied, so
 * that stores to `way` do not make the compiler read it again at each level. */
static bool find_way(const struct p2mfast *p2m, uint64_t gfn, struct way *way)
{
    const struct geometry *geometry = &p2m->geometry;
    const uint64_t index_mask = geometry->index_mask, type_mask = geometry->type_mask;
    const uint64_t address_mask = geometry->address_mask;
    const uint64_t base_mfn = p2m->platform.base_mfn, frames = p2m->platform.frames;
    uint64_t *const memory = p2m->platform.memory;
    uint64_t *table = p2m->root;
    uint64_t mask = geometry->root_mask;
    int armed = LEAF_LEVEL + 1;

    for (int level = geometry->root_level;; level++) {
        uint64_t *word = table + (gfn >> level_order(geometry, level) & mask);
        uint64_t pte = pte_read(word);
        uint64_t frame = ((pte & address_mask) >> PAGE_SHIFT) - base_mfn;

        if (!(pte & type_mask))
            return false;
        way->words[level - MIN_LEVEL] = word;
        way->ptes[level - MIN_LEVEL] = pte;
        if (!pte_is_valid(pte) && level < armed)
            armed = level;
        if (!pte_is_table(pte, level)) {
            way->table = table;
            way->leaf = level;
            way->armed = armed;
            return true;
        }
        if (frame >= frames)
            return false;
        table = memory + frame * TABLE_WORDS;
        mask = index_mask;
    }
}

/* Make its page reachable. The invalid state of a table entry is pushed down to all its children
 * first, and so on down the way; the topmost entry becomes valid last: until then no walk can come
 * by, so nothing below can be cached and no invalidation is due. */
static void open_way(struct p2mfast *p2m, uint64_t gfn, const struct way *way)
{
    for (int level = way->armed; level < way->leaf; level++)
        p2m_break(p2m, p2m_next_table(p2m, way->ptes[level - MIN_LEVEL]), TABLE_WORDS, ~PTE_VALID,
                  span_of(gfn, 1), INVALIDATE_NOTHING);
    for (int level = way->leaf; level >= way->armed; level--)
        set_valid(p2m, way->words[level - MIN_LEVEL], way->ptes[level - MIN_LEVEL]);
}

static bool resolve_path(struct p2mfast *p2m, uint64_t gfn, unsigned order)
{
    uint64_t end = min_u64(next_boundary(gfn, order), p2m->geometry.gfn_limit);
    struct way way;

    if (!find_way(p2m, gfn, &way))
        return false;
    open_way(p2m, gfn, &way);
    p2m->stats.resolved++;
    if (way.armed <= way.leaf) /* else it was stale: nothing was left to do */
        p2m->stats.resolved_levels[way.armed]++;
    for (uint64_t at = align_down(gfn, order); order && at < end;) {
        bool mapped = find_way(p2m, at, &way);
        struct walk walk;

        if (mapped)
            open_way(p2m, at, &way);
        if (mapped && way.leaf == LEAF_LEVEL) { /* and its neighbours in that table, at once */
            struct span rest = {
                at, min_u64(end, next_boundary(at, level_order(&p2m->geometry, LEAF_LEVEL - 1)))};

            set_valid_group(p2m, way.table, rest);
            at = rest.end;
            continue;
        }
        p2m_walk(p2m, WALK_SOFTWARE, at, &walk);
        at = next_boundary(at, level_order(&p2m->geometry, walk.level));
    }
    return true;
}

/* Xen's way: the first invalid entry becomes valid, its state moves one level down. */
static bool resolve_level(struct p2mfast *p2m, uint64_t gfn, unsigned order)
{
    const struct geometry *geometry = &p2m->geometry;
    uint64_t *table = p2m->root;

    if (gfn > p2m->max_mapped_gfn)
        return false;
    for (int level = geometry->root_level;; level++) {
        uint64_t *word = table + level_index(geometry, level, gfn);
        uint64_t pte = pte_read(word);
        unsigned level_pages_order = level_order(geometry, level);

        if (!pte_is_present(geometry, pte))
            return false;
        if (pte_is_table(pte, level)) {
            uint64_t *below = p2m_next_table(p2m, pte);

            if (!below)
                return false;
            if (pte_is_valid(pte)) {
                table = below;
                continue;
            }
            p2m_break(p2m, below, TABLE_WORDS, ~PTE_VALID,
                      span_of(align_down(gfn, level_pages_order), level_pages(geometry, level)),
                      INVALIDATE_NOW);
        }
        if (!pte_is_valid(pte))
            set_valid(p2m, word, pte);
        if (level == LEAF_LEVEL && order) {
            unsigned table_order = level_order(geometry, LEAF_LEVEL - 1);
            unsigned group = order < table_order ? order : table_order;

            set_valid_group(p2m, table,
                            (struct span){align_down(gfn, group), next_boundary(gfn, group)});
        }
        return true;
    }
}

static bool resolve(struct p2mfast *p2m, uint64_t gfn, unsigned depth, unsigned order)
{
    struct walk walk;
    bool faults, resolved;

    if (depth == P2MFAST_DEPTH_PATH)
        return resolve_path(p2m, gfn, order);
    faults = p2m_walk(p2m, WALK_MMU, gfn, &walk) == WALK_FAULT;
    resolved = resolve_level(p2m, gfn, order);
    p2m->stats.resolved += resolved;
    if (faults && resolved)
        p2m->stats.resolved_levels[walk.level]++;
    return resolved;
}

static int check_resolve(unsigned depth, unsigned order)
{
    return depth > P2MFAST_DEPTH_PATH || order > MAX_FAULT_AROUND ? P2MFAST_ERROR_ARGUMENT : 0;
}

/* Where all tables on the way are valid, only the leaf's own bit is to be set, whatever the depth.
 * Tables that were not yet when the walk came by are left to resolve(). */
static bool resolve_leaf(struct p2mfast *p2m, approach_t approach, bool *resolved)
{
    uint64_t *word = approach_word(approach);
    uint64_t pte;

    if (approach & APPROACH_LEVEL || !(approach & APPROACH_VALID))
        return false;
    pte = pte_read(word);
    *resolved = pte_is_present(&p2m->geometry, pte);
    if (*resolved && !pte_is_valid(pte)) {
        set_valid(p2m, word, pte);
        p2m->stats.resolved_levels[LEAF_LEVEL]++;
    }
    p2m->stats.resolved += *resolved;
    return true;
}

static void resolve_many(struct p2mfast *p2m, const uint64_t *gfns, size_t n, unsigned depth,
                         unsigned order, uint8_t *resolved)
{
    const struct ground ground = p2m->ground;
    uint64_t gfn_mask = p2m->geometry.gfn_limit - 1;
    approach_t approaches[2][APPROACH_BLOCK];

    for (size_t at = 0; at < n + APPROACH_BLOCK; at += APPROACH_BLOCK) {
        const approach_t *here = approaches[at / APPROACH_BLOCK % 2 ^ 1];
        size_t done = at - APPROACH_BLOCK;

        if (at < n)
            approach_to_write(p2m, &ground, gfns + at, approach_block(n, at),
                              approaches[at / APPROACH_BLOCK % 2]);
        for (size_t i = 0; at >= APPROACH_BLOCK && i < approach_block(n, done); i++) {
            uint64_t gfn = __atomic_load_n(&gfns[done + i], __ATOMIC_RELAXED) & gfn_mask;
            bool present;

            if (order || !resolve_leaf(p2m, here[i], &present))
                present = resolve(p2m, gfn, depth, order);
            resolved[done + i] = present;
        }
    }
}

int p2mfast_resolve_translation_faults(p2mfast_t *p2m, const uint64_t *gfns, size_t n,
                                       unsigned depth, unsigned order, uint8_t *resolved)
{
    uint64_t all = 0;
    int error = check_resolve(depth, order);

    for (size_t i = 0; i < n; i++)
        all |= gfns[i];
    if (!error && all >= p2m->geometry.gfn_limit) /* a power of two */
        error = P2MFAST_ERROR_RANGE;
    if (error)
        return error;
    p2m_lock(p2m);
    resolve_many(p2m, gfns, n, depth, order, resolved);
    p2m_unlock(p2m);
    return 0;
}

int p2mfast_resolve_translation_fault(p2mfast_t *p2m, uint64_t gfn, unsigned depth, unsigned order)
{
    int error = check_resolve(depth, order);
    bool resolved;

    if (!error && gfn >= p2m->geometry.gfn_limit)
        error = P2MFAST_ERROR_RANGE;
    if (error)
        return error;
    p2m_lock(p2m);
    resolved = resolve(p2m, gfn, depth, order);
    p2m_unlock(p2m);
    return resolved;
}

/* ---- A guest's accesses ---- */

/* One access; returns the fault that is left. Each resolved fault makes one more descriptor on the
 * way valid, so a sound tree takes at most one a level; a corrupt one ends there as well. */
static uint8_t access_one(struct p2mfast *p2m, uint64_t ipa, unsigned kind, int resolves,
                          unsigned depth, unsigned order, uint8_t *traps)
{
    p2mfast_translation_t result;

    *traps = 0;
    for (;;) {
        p2mfast_translate(p2m, ipa, kind, &result);
        if (result.fault != P2MFAST_FAULT_TRANSLATION || !resolves || *traps > LEAF_LEVEL ||
            ipa >> p2m->geometry.ipa_bits || !resolve(p2m, ipa >> PAGE_SHIFT, depth, order))
            return result.fault;
        ++*traps;
    }
}

int p2mfast_access_many(p2mfast_t *p2m, const uint64_t *ipas, const uint8_t *kinds, size_t n,
                        int resolves, unsigned depth, unsigned order, uint8_t *traps,
                        uint8_t *faults)
{
    int error = check_resolve(depth, order);

    for (size_t i = 0; !error && i < n; i++)
        if (!kinds[i] || kinds[i] > 7)
            error = P2MFAST_ERROR_ARGUMENT;
    if (error)
        return error;
    for (size_t i = 0; i < n;) {
        size_t end = n - i < ACCESSES_PER_LOCK ? n : i + ACCESSES_PER_LOCK;

        p2m_lock(p2m);
        for (; i < end; i++)
            faults[i] = access_one(p2m, __atomic_load_n(&ipas[i], __ATOMIC_RELAXED), kinds[i],
                                   resolves, depth, order, &traps[i]);
        p2m_unlock(p2m);
    }
    return 0;
}

/* ---- Harvest ---- */

struct harvest {
    struct runs runs;
    unsigned tables_left;
    uint64_t from;    /* pages before this one were collected by the calls before */
    uint64_t stopped; /* the page that there was no room for */
};

static bool collect_table(struct p2mfast *p2m, struct harvest *harvest, uint64_t *table, int level,
                          uint64_t gfn);

/* Collect the reachable RAM of one valid entry; false: no room for all of it. */
static bool collect_entry(struct p2mfast *p2m, struct harvest *harvest, uint64_t pte, int level,
                          uint64_t gfn)
{
    if (pte_is_table(pte, level)) {
        uint64_t *below = p2m_next_table(p2m, pte);

        if (level + 1 == LEAF_LEVEL && !harvest->tables_left) {
            harvest->stopped = max_u64(gfn, harvest->from);
            return false;
        }
        harvest->tables_left -= level + 1 == LEAF_LEVEL;
        return !below || collect_table(p2m, harvest, below, level + 1, gfn);
    }
    if (!pte_is_any_ram(pte) || runs_append(&harvest->runs, gfn, pte_mfn(&p2m->geometry, pte),
                                            level_pages(&p2m->geometry, level)))
        return true;
    harvest->stopped = gfn;
    return false;
}

/* Clear bit 0 of words [from, to) of a table whose first page is gfn. */
static void arm_words(struct p2mfast *p2m, uint64_t *table, uint64_t from, uint64_t to, int level,
                      uint64_t gfn)
{
    uint64_t pages = level_pages(&p2m->geometry, level);

    if (from < to)
        p2m_break(p2m, table + from, to - from, ~PTE_VALID,
                  span_of(gfn + from * pages, (to - from) * pages), INVALIDATE_LATER);
}

/* A table that is collected whole is armed by its caller, who clears the entry above it. Of one
 * that is not, what was collected is armed here, and what was not stays reachable. */
static bool collect_table(struct p2mfast *p2m, struct harvest *harvest, uint64_t *table, int level,
                          uint64_t gfn)
{
    uint64_t pages = level_pages(&p2m->geometry, level);
    uint64_t first = harvest->from > gfn ? (harvest->from - gfn) / pages : 0;
    /* The entry that an earlier call stopped in arms its own rest: touched pages may lie behind. */
    uint64_t whole = first + (harvest->from > gfn + first * pages);

    if (level == LEAF_LEVEL && !first && runs_fit_table(&harvest->runs)) {
        runs_append_table(&harvest->runs, p2m, table, 0, TABLE_WORDS, gfn, false);
        return true;
    }
    if (level == LEAF_LEVEL && !first && runs_could_fit_table(&harvest->runs)) {
        harvest->stopped = gfn;
        return false;
    }
    for (uint64_t i = first; i < TABLE_WORDS; i++) {
        i = p2m_next_valid(p2m, table, i, TABLE_WORDS);
        if (i == TABLE_WORDS ||
            collect_entry(p2m, harvest, pte_read(&table[i]), level, gfn + i * pages))
            continue;
        arm_words(p2m, table, whole, i, level, gfn);
        return false;
    }
    /* Begun by an earlier call: what was touched before `first` since then is not collected. */
    if (harvest->from > gfn)
        arm_words(p2m, table, whole, TABLE_WORDS, level, gfn);
    return true;
}

/* One root entry. Where earlier calls began it, a second look takes what was touched behind them
 * since, as far as there is room: the entry can be cleared only if nothing is left below it. */
static bool collect_root_entry(struct p2mfast *p2m, struct harvest *harvest, uint64_t index)
{
    const struct geometry *geometry = &p2m->geometry;
    uint64_t gfn = index << level_order(geometry, geometry->root_level);
    uint64_t pte = pte_read(&p2m->root[index]);
    bool begun = harvest->from > gfn;

    if (!pte_is_valid(pte))
        return true;
    if (!collect_entry(p2m, harvest, pte, geometry->root_level, gfn))
        return false;
    harvest->from = 0;
    if (!begun || collect_entry(p2m, harvest, pte, geometry->root_level, gfn))
        arm_words(p2m, p2m->root, index, index + 1, geometry->root_level, 0);
    return true;
}

int p2mfast_harvest(p2mfast_t *p2m, uint64_t *cursor, p2mfast_run_t *runs, size_t capacity,
                    size_t *n)
{
    const struct geometry *geometry = &p2m->geometry;
    struct harvest harvest = {{runs, capacity, 0}, HARVEST_TABLES, *cursor, 0};
    uint64_t words = level_words(geometry, geometry->root_level);
    uint64_t i = *cursor >> level_order(geometry, geometry->root_level);

    *n = 0;
    if (!capacity || i >= words)
        return P2MFAST_ERROR_ARGUMENT;
    p2m_lock(p2m);
    while (i < words && collect_root_entry(p2m, &harvest, i))
        i++;
    p2m->stats.armed += i == words;
    p2m_invalidate_stale(p2m);
    p2m_unlock(p2m);
    *cursor = i < words ? harvest.stopped : words << level_order(geometry, geometry->root_level);
    *n = harvest.runs.n;
    return i == words ? 0 : 1;
}
