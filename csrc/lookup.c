/*
 * Look-ups: what a GFN is mapped to (Xen's p2m_get_entry), and the MMU's view of an access.
 *
 * Readers take no lock: what they read is read under the sequence counter and read again if a
 * table was being changed meanwhile. Batches walk some entries ahead and prefetch the last word of
 * each, so that the memory works on many at once.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "p2m.h"

/* Walks under way in a batch, and entries that share one look at the sequence counter. */
#define AHEAD 32
#define CHUNK 768

/* Level-2 tables beyond this many do not stay in a core's cache: prefetch their words, too. */
#define FEW_TABLES (128 * TABLE_WORDS)

/* ---- What a GFN is mapped to ---- */

/* Above the highest mapped GFN there is nothing, and no table tells how much of it: the first
 * level whose block starts above it does (Xen p2m_get_entry, check_p2m_max). */
static unsigned order_above_max(const struct geometry *geometry, uint64_t gfn, uint64_t max)
{
    for (int level = geometry->root_level; level < LEAF_LEVEL; level++)
        if (align_down(gfn, level_order(geometry, level)) > max)
            return level_order(geometry, level);
    return 0;
}

static inline void set_hole(p2mfast_entry_t *entry, unsigned order)
{
    *entry = (p2mfast_entry_t){
        P2MFAST_INVALID_MFN, P2MFAST_INVALID, (uint8_t)order, 0, 0, P2MFAST_NO_ACCESS, {0}};
}

static inline void set_entry(const struct geometry *geometry, const struct walk *walk,
                             p2mfast_entry_t *entry)
{
    *entry = (p2mfast_entry_t){walk_leaf_mfn(geometry, walk),
                               (uint8_t)pte_type(walk->pte),
                               (uint8_t)level_order(geometry, walk->level),
                               pte_is_valid(walk->pte),
                               walk->reachable,
                               P2MFAST_ACCESS_RWX,
                               {0}};
}

static inline uint64_t highest(const struct p2mfast *p2m)
{
    return __atomic_load_n(&p2m->max_mapped_gfn, __ATOMIC_RELAXED);
}

static void read_entry(const struct p2mfast *p2m, uint64_t gfn, p2mfast_entry_t *entry)
{
    const struct geometry *geometry = &p2m->geometry;
    uint64_t max = highest(p2m);
    struct walk walk;

    if (gfn > max)
        set_hole(entry, order_above_max(geometry, gfn, max));
    else if (p2m_walk(p2m, WALK_SOFTWARE, gfn, &walk) == WALK_LEAF)
        set_entry(geometry, &walk, entry);
    else
        set_hole(entry, level_order(geometry, walk.level));
}

static void get_entry(const struct p2mfast *p2m, uint64_t gfn, p2mfast_entry_t *entry)
{
    uint32_t sequence;

    do {
        sequence = p2m_read_begin(p2m);
        read_entry(p2m, gfn, entry);
    } while (p2m_read_retry(p2m, sequence));
}

int p2mfast_get_entry(const p2mfast_t *p2m, uint64_t gfn, p2mfast_entry_t *entry)
{
    if (gfn >= p2m->geometry.gfn_limit)
        return P2MFAST_ERROR_RANGE;
    get_entry(p2m, gfn, entry);
    return 0;
}

/* ---- The MMU's view ---- */

/* What is left to check once the walk has found a leaf, in the architecture's order
 * (Arm ARM D8.15, MMU fault prioritization: access flag before permission). */
static inline enum p2mfast_fault leaf_fault(uint64_t pte, unsigned access)
{
    if (!(pte & PTE_AF))
        return P2MFAST_FAULT_ACCESS_FLAG;
    return pte_permits(pte, access) ? P2MFAST_FAULT_NONE : P2MFAST_FAULT_PERMISSION;
}

static inline void set_fault(p2mfast_translation_t *result, int level, unsigned fault)
{
    *result = (p2mfast_translation_t){0, 0, (int8_t)level, (uint8_t)fault, {0}};
}

static inline void set_translation(const struct geometry *geometry, const struct walk *walk,
                                   uint64_t ipa, unsigned access, p2mfast_translation_t *result)
{
    enum p2mfast_fault fault = leaf_fault(walk->pte, access);

    if (fault) {
        set_fault(result, walk->level, fault);
        return;
    }
    *result = (p2mfast_translation_t){walk_leaf_mfn(geometry, walk) << PAGE_SHIFT |
                                          (ipa & (TABLE_BYTES - 1)),
                                      walk->pte & ~geometry->address_mask,
                                      (int8_t)walk->level,
                                      P2MFAST_FAULT_NONE,
                                      {0}};
}

static void read_translation(const struct p2mfast *p2m, uint64_t ipa, unsigned access,
                             p2mfast_translation_t *result)
{
    struct walk walk;

    if (ipa >> p2m->geometry.ipa_bits) /* beyond the input size: a fault of level 0 */
        set_fault(result, 0, P2MFAST_FAULT_TRANSLATION);
    else if (p2m_walk(p2m, WALK_MMU, ipa >> PAGE_SHIFT, &walk) == WALK_LEAF)
        set_translation(&p2m->geometry, &walk, ipa, access, result);
    else
        set_fault(result, walk.level, walk.fault);
}

static void translate(const struct p2mfast *p2m, uint64_t ipa, unsigned access,
                      p2mfast_translation_t *result)
{
    uint32_t sequence;

    do {
        sequence = p2m_read_begin(p2m);
        read_translation(p2m, ipa, access, result);
    } while (p2m_read_retry(p2m, sequence));
}

int p2mfast_translate(const p2mfast_t *p2m, uint64_t ipa, unsigned access,
                      p2mfast_translation_t *result)
{
    if (!access || access > 7)
        return P2MFAST_ERROR_ARGUMENT;
    translate(p2m, ipa, access, result);
    return 0;
}

/* ---- Batches ---- */

/* What a batch reads of its P2M. A local copy: the compiler knows that no store to the caller's
 * arrays changes it, and keeps it in registers. */
static inline void copy_for_batch(const struct p2mfast *p2m, struct p2mfast *copy)
{
    copy->geometry = p2m->geometry;
    copy->root = p2m->root;
    copy->platform.memory = p2m->platform.memory;
    copy->platform.base_mfn = p2m->platform.base_mfn;
    copy->platform.frames = p2m->platform.frames;
    copy->max_mapped_gfn = highest(p2m);
}

/* A walk that has come to a last table and prefetched its word there. */
struct approach {
    const uint64_t *word; /* NULL: it ends above the last level, or nothing is to be read */
    bool reachable;
};

/* The last table found; most batches come back to it. */
struct last_table {
    uint64_t block; /* gfn >> 9 of its pages */
    const uint64_t *table;
    bool reachable;
};

static inline void approach_table(const struct p2mfast *p2m, enum walk_view view, uint64_t gfn,
                                  struct last_table *last)
{
    unsigned order = level_order(&p2m->geometry, LEAF_LEVEL - 1);

    if (gfn >> order == last->block)
        return;
    last->block = gfn >> order;
    last->table = gfn < p2m->geometry.gfn_limit && gfn <= p2m->max_mapped_gfn
                      ? p2m_descend(p2m, view, gfn, LEAF_LEVEL, &last->reachable)
                      : NULL;
}

static inline struct approach approach(const struct p2mfast *p2m, enum walk_view view, uint64_t gfn,
                                       struct last_table *last)
{
    struct approach approach = {NULL, false};

    approach_table(p2m, view, gfn, last);
    if (last->table) {
        approach.word = last->table + level_index(&p2m->geometry, LEAF_LEVEL, gfn);
        approach.reachable = last->reachable;
        __builtin_prefetch(approach.word);
    }
    return approach;
}

/* Where there are many level-2 tables: their word, twice as far ahead. */
static inline void approach_level_2(const struct p2mfast *p2m, enum walk_view view, uint64_t gfn)
{
    bool reachable;
    const uint64_t *table;

    if (gfn >= p2m->geometry.gfn_limit)
        return;
    table = p2m_descend(p2m, view, gfn, LEAF_LEVEL - 1, &reachable);
    if (table)
        __builtin_prefetch(table + level_index(&p2m->geometry, LEAF_LEVEL - 1, gfn));
}

/* The walk's last step. */
static inline enum walk_outcome arrive(const struct p2mfast *p2m, enum walk_view view, uint64_t gfn,
                                       struct approach from, struct walk *walk)
{
    walk_start(&p2m->geometry, walk, gfn);
    walk->level = LEAF_LEVEL;
    walk->reachable = from.reachable;
    return walk_step(&p2m->geometry, view, walk, pte_read(from.word));
}

static inline void finish_entry(const struct p2mfast *live, const struct p2mfast *p2m, uint64_t gfn,
                                struct approach from, p2mfast_entry_t *entry)
{
    struct walk walk;

    if (!from.word || gfn > p2m->max_mapped_gfn)
        read_entry(live, gfn, entry);
    else if (arrive(p2m, WALK_SOFTWARE, gfn, from, &walk) == WALK_LEAF)
        set_entry(&p2m->geometry, &walk, entry);
    else
        set_hole(entry, 0);
}

static inline void finish_translation(const struct p2mfast *live, const struct p2mfast *p2m,
                                      uint64_t ipa, unsigned access, struct approach from,
                                      p2mfast_translation_t *result)
{
    struct walk walk;

    if (!from.word || ipa >> p2m->geometry.ipa_bits)
        read_translation(live, ipa, access, result);
    else if (arrive(p2m, WALK_MMU, ipa >> PAGE_SHIFT, from, &walk) == WALK_LEAF)
        set_translation(&p2m->geometry, &walk, ipa, access, result);
    else
        set_fault(result, walk.level, walk.fault);
}

/* A chunk of a batch of either kind: entries where `access` is 0, translations elsewhere. The
 * branches on constants go when it is inlined. */
static inline __attribute__((always_inline)) void
read_chunk(const struct p2mfast *p2m, const uint64_t *keys, size_t n, unsigned access,
           p2mfast_entry_t *entries, p2mfast_translation_t *results, bool many_tables)
{
    const enum walk_view view = access ? WALK_MMU : WALK_SOFTWARE;
    const unsigned shift = access ? PAGE_SHIFT : 0;
    struct approach ahead[AHEAD];
    struct last_table last = {UINT64_MAX, NULL, false};
    struct p2mfast copy;

    copy_for_batch(p2m, &copy);

    for (size_t i = 0; i < n + AHEAD; i++) {
        struct approach *slot = &ahead[i % AHEAD];

        if (many_tables && i + AHEAD < n)
            approach_level_2(&copy, view, keys[i + AHEAD] >> shift);
        if (i >= AHEAD) {
            size_t at = i - AHEAD;

            if (access)
                finish_translation(p2m, &copy, keys[at], access, *slot, &results[at]);
            else
                finish_entry(p2m, &copy, keys[at], *slot, &entries[at]);
        }
        if (i < n)
            *slot = approach(&copy, view, keys[i] >> shift, &last);
    }
}

static inline bool has_many_tables(const struct p2mfast *p2m)
{
    return __atomic_load_n(&p2m->stats.tables, __ATOMIC_RELAXED) > FEW_TABLES;
}

int p2mfast_get_entries(const p2mfast_t *p2m, const uint64_t *gfns, size_t n,
                        p2mfast_entry_t *entries)
{
    for (size_t i = 0; i < n; i++)
        if (gfns[i] >= p2m->geometry.gfn_limit)
            return P2MFAST_ERROR_RANGE;
    for (size_t start = 0; start < n; start += CHUNK) {
        size_t some = n - start < CHUNK ? n - start : CHUNK;
        uint32_t sequence = p2m_read_begin(p2m);

        if (has_many_tables(p2m))
            read_chunk(p2m, gfns + start, some, 0, entries + start, NULL, true);
        else
            read_chunk(p2m, gfns + start, some, 0, entries + start, NULL, false);
        /* A writer came by: one at a time, so that a busy one cannot hold the batch up. */
        for (size_t i = 0; p2m_read_retry(p2m, sequence) && i < some; i++)
            get_entry(p2m, gfns[start + i], &entries[start + i]);
    }
    return 0;
}

int p2mfast_translate_many(const p2mfast_t *p2m, const uint64_t *ipas, size_t n, unsigned access,
                           p2mfast_translation_t *results)
{
    if (!access || access > 7)
        return P2MFAST_ERROR_ARGUMENT;
    for (size_t start = 0; start < n; start += CHUNK) {
        size_t some = n - start < CHUNK ? n - start : CHUNK;
        uint32_t sequence = p2m_read_begin(p2m);

        if (has_many_tables(p2m))
            read_chunk(p2m, ipas + start, some, access, NULL, results + start, true);
        else
            read_chunk(p2m, ipas + start, some, access, NULL, results + start, false);
        for (size_t i = 0; p2m_read_retry(p2m, sequence) && i < some; i++)
            translate(p2m, ipas[start + i], access, &results[start + i]);
    }
    return 0;
}
