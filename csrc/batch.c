/*
 * Look-ups in batches, in blocks of some dozen: while the last words of one block come from memory,
 * the next one's walks go down to theirs. What the words say is written by the vector loops; what
 * is not simply a page is looked up again by itself.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "access.h"
#include "approach.h"
#include "lookup.h"

/* Entries that share one look at the sequence counter. */
#define CHUNK (12 * APPROACH_BLOCK)

/* Level-2 tables beyond this many do not stay in a core's cache: prefetch their words, too. */
#define FEW_TABLES (128 * TABLE_WORDS)

/* One kind of batch. All of it is constant where it is used, and the loops are compiled for it. */
struct kind {
    enum walk_view view; /* software's: GFNs in, entries out; the MMU's: IPAs, translations */
    int root_level;
    bool many_tables;
};

static inline unsigned key_shift(struct kind kind)
{
    return kind.view == WALK_MMU ? PAGE_SHIFT : 0;
}

/* Do all keys lie in one last table? */
static inline bool share_table(const uint64_t *keys, size_t n, unsigned order)
{
    uint64_t differ = 0;

    for (size_t i = 1; i < n; i++)
        differ |= keys[i] ^ keys[0];
    return !(differ >> order);
}

static inline __attribute__((always_inline)) void approach_keys(const struct ground *ground,
                                                                struct kind kind,
                                                                const uint64_t *keys, size_t n,
                                                                approach_t *approaches)
{
    const int target = kind.many_tables ? LEAF_LEVEL - 1 : LEAF_LEVEL;

    if (share_table(keys, n, GRANULE_ORDER(LEAF_LEVEL - 1) + key_shift(kind))) {
        uint64_t first = align_down(keys[0] >> key_shift(kind), GRANULE_ORDER(LEAF_LEVEL - 1));
        approach_t table = approach(ground, kind.view, first, kind.root_level, LEAF_LEVEL);

        for (size_t i = 0; i < n; i++)
            approaches[i] =
                table & APPROACH_LEVEL
                    ? table
                    : table + (keys[i] >> key_shift(kind) & (TABLE_WORDS - 1)) * sizeof(*keys);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        approaches[i] =
            approach(ground, kind.view, keys[i] >> key_shift(kind), kind.root_level, target);
        __builtin_prefetch((const void *)(uintptr_t)approaches[i]);
    }
}

/* From the words of level 2, which have come, on to the last. */
static inline __attribute__((always_inline)) void approach_leaves(const struct ground *ground,
                                                                  struct kind kind,
                                                                  const uint64_t *keys, size_t n,
                                                                  approach_t *approaches)
{
    for (size_t i = 0; i < n; i++) {
        if (approach_level(approaches[i]) != LEAF_LEVEL - 1)
            continue;
        approaches[i] = approach_from(ground, kind.view, keys[i] >> key_shift(kind),
                                      approach_word(approaches[i]), approaches[i] & APPROACH_VALID,
                                      LEAF_LEVEL - 1, LEAF_LEVEL);
        __builtin_prefetch((const void *)(uintptr_t)approaches[i]);
    }
}

static inline void read_words(const approach_t *approaches, size_t n, uint64_t *ptes)
{
    for (size_t i = 0; i < n; i++)
        ptes[i] = pte_read(approach_word(approaches[i]));
}

static inline __attribute__((always_inline)) void finish_entries(const struct p2mfast *p2m,
                                                                 const uint64_t *gfns,
                                                                 const approach_t *approaches,
                                                                 size_t n, p2mfast_entry_t *entries)
{
    uint64_t ptes[APPROACH_BLOCK];

    read_words(approaches, n, ptes);
    if (p2m->vec->entries(ptes, approaches, n, entries) && !p2mfast_mem_access_enabled(p2m))
        return;
    for (size_t i = 0; i < n; i++)
        if (!entries[i].type)
            lookup_read_entry(p2m, gfns[i], &entries[i]);
        else
            entries[i].access = access_get(p2m, gfns[i]);
}

static inline __attribute__((always_inline)) void
finish_translations(const struct p2mfast *p2m, const uint64_t *ipas, unsigned access,
                    const approach_t *approaches, size_t n, p2mfast_translation_t *results)
{
    const struct geometry *geometry = &p2m->geometry;
    uint64_t granted =
        PTE_VALID | PTE_TABLE | PTE_AF | (access & 1 ? PTE_READ : 0) | (access & 2 ? PTE_WRITE : 0);
    uint64_t refused = (access & 4 ? PTE_XN : 0) |
                       (geometry->address_mask & ~(((uint64_t)1 << geometry->pa_bits) - 1));
    struct vec_rights rights = {granted, granted | refused, geometry->ipa_bits};
    uint64_t ptes[APPROACH_BLOCK];

    read_words(approaches, n, ptes);
    if (p2m->vec->translations(ptes, approaches, ipas, n, &rights, results))
        return;
    for (size_t i = 0; i < n; i++)
        if (results[i].fault)
            lookup_read_translation(p2m, ipas[i], access, &results[i]);
}

/* What comes out of a batch: entries, or results of accesses. */
struct output {
    p2mfast_entry_t *entries;
    p2mfast_translation_t *results;
    unsigned access;
};

/* Blocks go through two or three stages: each one stage further, before the next one begins. */
static inline __attribute__((always_inline)) void read_chunk(const struct p2mfast *p2m,
                                                             struct kind kind, const uint64_t *keys,
                                                             size_t n, struct output output)
{
    const struct ground ground = p2m->ground;
    const size_t behind = kind.many_tables ? 2 * APPROACH_BLOCK : APPROACH_BLOCK;
    approach_t approaches[3][APPROACH_BLOCK];

    for (size_t at = 0; at < n + behind; at += APPROACH_BLOCK) {
        approach_t *first = approaches[at / APPROACH_BLOCK % 3];
        approach_t *second = approaches[(at / APPROACH_BLOCK + 2) % 3];
        approach_t *third = kind.many_tables ? approaches[(at / APPROACH_BLOCK + 1) % 3] : second;
        size_t done = at - behind;

        if (at < n)
            approach_keys(&ground, kind, keys + at, approach_block(n, at), first);
        if (kind.many_tables && at >= APPROACH_BLOCK && at - APPROACH_BLOCK < n)
            approach_leaves(&ground, kind, keys + at - APPROACH_BLOCK,
                            approach_block(n, at - APPROACH_BLOCK), second);
        if (at < behind)
            continue;
        if (kind.view == WALK_SOFTWARE)
            finish_entries(p2m, keys + done, third, approach_block(n, done), output.entries + done);
        else
            finish_translations(p2m, keys + done, output.access, third, approach_block(n, done),
                                output.results + done);
    }
}

static inline __attribute__((always_inline)) void read_tree(const struct p2mfast *p2m,
                                                            enum walk_view view,
                                                            const uint64_t *keys, size_t n,
                                                            struct output output)
{
    bool many_tables = __atomic_load_n(&p2m->stats.tables, __ATOMIC_RELAXED) > FEW_TABLES;

    if (p2m->geometry.root_level == 0 && many_tables)
        read_chunk(p2m, (struct kind){view, 0, true}, keys, n, output);
    else if (p2m->geometry.root_level == 0)
        read_chunk(p2m, (struct kind){view, 0, false}, keys, n, output);
    else if (many_tables)
        read_chunk(p2m, (struct kind){view, 1, true}, keys, n, output);
    else
        read_chunk(p2m, (struct kind){view, 1, false}, keys, n, output);
}

int p2mfast_get_entries(const p2mfast_t *p2m, const uint64_t *gfns, size_t n,
                        p2mfast_entry_t *entries)
{
    uint64_t all = 0;

    for (size_t i = 0; i < n; i++)
        all |= gfns[i];
    if (all >= p2m->geometry.gfn_limit) /* a power of two */
        return P2MFAST_ERROR_RANGE;
    for (size_t at = 0; at < n; at += CHUNK) {
        size_t some = n - at < CHUNK ? n - at : CHUNK;
        uint32_t sequence = p2m_read_begin(p2m);

        read_tree(p2m, WALK_SOFTWARE, gfns + at, some, (struct output){entries + at, NULL, 0});
        /* A writer came by: one at a time, so that a busy one cannot hold the batch up. */
        for (size_t i = 0; p2m_read_retry(p2m, sequence) && i < some; i++)
            lookup_entry(p2m, gfns[at + i], &entries[at + i]);
    }
    return 0;
}

int p2mfast_translate_many(const p2mfast_t *p2m, const uint64_t *ipas, size_t n, unsigned access,
                           p2mfast_translation_t *results)
{
    if (!access || access > 7)
        return P2MFAST_ERROR_ARGUMENT;
    for (size_t at = 0; at < n; at += CHUNK) {
        size_t some = n - at < CHUNK ? n - at : CHUNK;
        uint32_t sequence = p2m_read_begin(p2m);

        read_tree(p2m, WALK_MMU, ipas + at, some, (struct output){NULL, results + at, access});
        for (size_t i = 0; p2m_read_retry(p2m, sequence) && i < some; i++)
            lookup_translation(p2m, ipas[at + i], access, &results[at + i]);
    }
    return 0;
}
