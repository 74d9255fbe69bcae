/*
 * Scattered single pages in a batch: as many updates of one page, but nothing is done by halves.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "access.h"
#include "approach.h"
#include "update.h"

/* Level at which the way to gfn's last table breaks off, or LEAF_LEVEL where nothing is missing;
 * negative: the tree is corrupt there. The last table itself, likely not in a cache, is not read.
 */
static int missing_from(const struct p2mfast *p2m, uint64_t gfn, uint64_t mfn)
{
    struct walk walk;
    enum walk_outcome outcome;
    bool reachable;

    if (p2m_descend(p2m, WALK_SOFTWARE, gfn, LEAF_LEVEL, &reachable))
        return LEAF_LEVEL;
    outcome = p2m_walk(p2m, WALK_SOFTWARE, gfn, &walk);
    if (outcome == WALK_FAULT)
        return -1;
    return outcome == WALK_HOLE && removes(mfn) ? LEAF_LEVEL : walk.level;
}

/* Tables that the way to gfn lacks and the way to `before` does not lack as well. */
static uint64_t tables_missing(const struct p2mfast *p2m, uint64_t gfn, int level,
                               const uint64_t *before)
{
    uint64_t tables = 0;

    for (; level < LEAF_LEVEL; level++) {
        unsigned order = level_order(&p2m->geometry, level);

        tables += !before || gfn >> order != *before >> order;
    }
    return tables;
}

/* Heapsort: in place, no worst case, and this is the rare path. */
static void sift_down(uint64_t *keys, size_t root, size_t n)
{
    for (size_t child; (child = 2 * root + 1) < n; root = child) {
        uint64_t key = keys[root];

        if (child + 1 < n && keys[child + 1] > keys[child])
            child++;
        if (keys[child] <= key)
            return;
        keys[root] = keys[child];
        keys[child] = key;
    }
}

static void sort_keys(uint64_t *keys, size_t n)
{
    for (size_t i = n / 2; i-- > 0;)
        sift_down(keys, i, n);
    for (size_t i = n; i-- > 1;) {
        uint64_t key = keys[i];

        keys[i] = keys[0];
        keys[0] = key;
        sift_down(keys, 0, i);
    }
}

/* Tables that n scattered pages take; at most too many where they come in no order. With `keys`
 * (room for n), exactly. CORRUPT_TREE: a way leads outside. */
static uint64_t need_of_scattered(const struct p2mfast *p2m, const uint64_t *gfns,
                                  const uint64_t *mfns, size_t n, uint64_t *keys)
{
    const struct ground ground = p2m->ground;
    uint64_t need = 0;
    uint64_t before = 0;
    size_t missing = 0;

    for (size_t i = 0; i < n; i++) {
        int level;

        if (!(approach_last(&ground, WALK_SOFTWARE, gfns[i], p2m->geometry.root_level) &
              APPROACH_LEVEL))
            continue;
        level = missing_from(p2m, gfns[i], mfns[i]);
        if (level < 0)
            return CORRUPT_TREE;
        if (level == LEAF_LEVEL)
            continue;
        if (keys)
            keys[missing] = gfns[i];
        need += tables_missing(p2m, gfns[i], level, missing ? &before : NULL);
        before = gfns[i];
        missing++;
    }
    if (!keys)
        return need;
    sort_keys(keys, missing);
    need = 0;
    /* A superpage is split for a removal too, and holes were left out above: 0 is no removal. */
    for (size_t i = 0; i < missing; i++)
        need +=
            tables_missing(p2m, keys[i], missing_from(p2m, keys[i], 0), i ? &keys[i - 1] : NULL);
    return need;
}

static int reserve_scattered(struct p2mfast *p2m, const uint64_t *gfns, const uint64_t *mfns,
                             size_t n, uint64_t attributes)
{
    const p2mfast_platform_t *platform = &p2m->platform;
    /* Of equal GFNs the last wins: what this batch maps may go in it, too. */
    uint64_t removed = p2m->counted || pte_is_counted(attributes) ? n : 0;
    int error = update_reserve(p2m, need_of_scattered(p2m, gfns, mfns, n, NULL), removed);
    uint64_t *keys;

    if (error != P2MFAST_ERROR_TABLES || !platform->scratch)
        return error;
    keys = platform->scratch(platform->context, n * sizeof(*keys));
    if (!keys)
        return P2MFAST_ERROR_MEMORY;
    error = update_reserve(p2m, need_of_scattered(p2m, gfns, mfns, n, keys), removed);
    platform->release_scratch(platform->context, keys);
    return error;
}

/* The arrays are another thread's to spoil, this P2M is not: what is read counts, masked. */
static inline uint64_t read_gfn(const struct p2mfast *p2m, const uint64_t *gfn)
{
    return __atomic_load_n(gfn, __ATOMIC_RELAXED) & (p2m->geometry.gfn_limit - 1);
}

static void change_page(struct p2mfast *p2m, uint64_t *word, uint64_t gfn, uint64_t mfn,
                        uint64_t attributes)
{
    if (pte_read(word) || removes(mfn) || pte_is_counted(attributes)) {
        update_words(p2m, word, 1, LEAF_LEVEL, gfn, mfn, attributes);
        p2m_invalidate_stale(p2m);
        return;
    }
    p2m_make_word(p2m, word, pte_leaf(attributes, mfn, LEAF_LEVEL));
    p2m->stats.mappings[LEAF_LEVEL]++;
}

static int apply_block(struct p2mfast *p2m, const uint64_t *gfns, const uint64_t *mfns,
                       const approach_t *approaches, size_t n, uint64_t attributes)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t gfn = read_gfn(p2m, &gfns[i]);
        uint64_t mfn = __atomic_load_n(&mfns[i], __ATOMIC_RELAXED);
        uint64_t *word = approach_word(approaches[i]);
        int stop = LEAF_LEVEL;

        if (approaches[i] & APPROACH_LEVEL)
            word = update_find_word(p2m, gfn, LEAF_LEVEL, removes(mfn), &stop);
        if (!word && stop < p2m->geometry.root_level)
            return P2MFAST_ERROR_TABLES;
        if (!word)
            continue;
        if (!removes(mfn)) {
            mfn &= p2m->geometry.mfn_limit - 1;
            if (gfn > p2m->max_mapped_gfn || gfn < p2m->lowest_mapped_gfn)
                update_extend_bounds(p2m, gfn, gfn);
        }
        change_page(p2m, word, gfn, mfn, attributes);
    }
    return 0;
}

/* Each block's walks are under way before the one before it changes. That is safe: pages' changes
 * take no table away, and who got no last table before looks again. */
static int apply_scattered(struct p2mfast *p2m, const uint64_t *gfns, const uint64_t *mfns,
                           size_t n, uint64_t attributes)
{
    const struct ground ground = p2m->ground;
    approach_t approaches[2][APPROACH_BLOCK];
    int error = 0;

    for (size_t at = 0; !error && at < n + APPROACH_BLOCK; at += APPROACH_BLOCK) {
        approach_t *coming = approaches[at / APPROACH_BLOCK % 2];
        const approach_t *here = approaches[at / APPROACH_BLOCK % 2 ^ 1];
        size_t done = at - APPROACH_BLOCK;

        if (at < n)
            approach_to_write(p2m, &ground, gfns + at, approach_block(n, at), coming);
        if (at >= APPROACH_BLOCK)
            error = apply_block(p2m, gfns + done, mfns + done, here, approach_block(n, done),
                                attributes);
    }
    return error;
}

static int reserve_access(struct p2mfast *p2m, const uint64_t *gfns, size_t n, unsigned access)
{
    int error = 0;

    for (size_t i = 0; !error && p2m->mem_access && i < n; i++)
        error = access_reserve(p2m, read_gfn(p2m, &gfns[i]), 1, access);
    return error;
}

static void record_access(struct p2mfast *p2m, const uint64_t *gfns, const uint64_t *mfns, size_t n,
                          unsigned access)
{
    for (size_t i = 0; p2m->mem_access && i < n; i++)
        access_set(p2m, read_gfn(p2m, &gfns[i]), 1,
                   removes(__atomic_load_n(&mfns[i], __ATOMIC_RELAXED)) ? P2MFAST_ACCESS_RWX
                                                                        : access);
}

static bool in_range(const struct p2mfast *p2m, const uint64_t *gfns, const uint64_t *mfns,
                     size_t n)
{
    uint64_t gfn_limit = p2m->geometry.gfn_limit;
    uint64_t mfn_limit = p2m->geometry.mfn_limit;
    uint64_t beyond = 0;

    for (size_t i = 0; i < n; i++)
        beyond |= (uint64_t)(gfns[i] >= gfn_limit) |
                  (uint64_t)((mfns[i] >= mfn_limit) & !removes(mfns[i]));
    return !beyond;
}

int p2mfast_set_entries(p2mfast_t *p2m, const uint64_t *gfns, const uint64_t *mfns, size_t n,
                        unsigned type, unsigned access, unsigned flags)
{
    int error = update_check_kind(type, access, flags, false);
    uint64_t attributes;

    if (!error && !in_range(p2m, gfns, mfns, n))
        error = P2MFAST_ERROR_RANGE;
    if (error)
        return error;
    attributes = update_attributes(type, access, flags);
    p2m_lock(p2m);
    error = reserve_scattered(p2m, gfns, mfns, n, attributes);
    if (!error)
        error = reserve_access(p2m, gfns, n, access);
    if (!error)
        record_access(p2m, gfns, mfns, n, access);
    if (!error)
        error = apply_scattered(p2m, gfns, mfns, n, attributes);
    p2m_unlock(p2m);
    return error;
}
