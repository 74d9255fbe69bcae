/*
 * Set, remove, shatter: validate the whole request, then change one table's run of words at a
 * time. Semantics are Xen's p2m_set_entry and p2m_remove_mapping (xen/arch/arm/mmu/p2m.c), but
 * nothing is done by halves: count_need() counts the tables a request takes before the first store.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "access.h"
#include "update.h"

/* A request for the pages [start, end). Superpages begin where all that follows is aligned, so
 * each level serves one stretch: [.., limit[3]) in pages, [limit[3], limit[2]) in 2 MiB blocks,
 * [limit[2], limit[1]) in 1 GiB blocks. limit[level] is also where tables of that level end. */
struct request {
    uint64_t start;
    uint64_t end;
    uint64_t mfn; /* of start, or P2MFAST_INVALID_MFN: remove */
    unsigned access;
    uint64_t attributes;
    uint64_t limit[LEAF_LEVEL + 1];
};

static uint64_t align_up(uint64_t gfn, unsigned order)
{
    return align_down(gfn + ((uint64_t)1 << order) - 1, order);
}

/* Where blocks of `order` begin, not before `from`. */
static uint64_t first_block(const struct request *request, uint64_t from, unsigned order)
{
    uint64_t mask = ((uint64_t)1 << order) - 1;
    uint64_t offset = removes(request->mfn) ? 0 : request->mfn - request->start;
    uint64_t first = align_up(from, order);

    if ((request->end | offset) & mask || first > request->end)
        return request->end;
    return first;
}

static void plan(const struct p2mfast *p2m, struct request *request, unsigned flags)
{
    uint64_t pages_end = request->end;
    uint64_t blocks_end = request->end;

    if (!(flags & P2MFAST_MAX_ORDER_0))
        pages_end = first_block(request, request->start, level_order(&p2m->geometry, 2));
    if (!(flags & (P2MFAST_MAX_ORDER_0 | P2MFAST_MAX_ORDER_9)))
        blocks_end = first_block(request, pages_end, level_order(&p2m->geometry, 1));
    request->limit[3] = pages_end;
    request->limit[2] = blocks_end;
    request->limit[1] = request->end;
    request->limit[0] = request->end;
}

/* ---- How many tables it takes ---- */

/* Tables of all levels below `level` that [start, end) needs where none is there. */
static uint64_t tables_below(const struct p2mfast *p2m, const struct request *request, int level,
                             struct span pages)
{
    uint64_t tables = 0;

    for (int below = level + 1; below <= LEAF_LEVEL; below++) {
        unsigned order = level_order(&p2m->geometry, below - 1);
        uint64_t end = min_u64(pages.end, request->limit[below]);

        if (pages.start < end)
            tables += ((end - 1) >> order) - (pages.start >> order) + 1;
    }
    return tables;
}

/* Added to *need. False: the tree is corrupt. */
static bool count_need(const struct p2mfast *p2m, const struct request *request,
                       const uint64_t *table, int level, struct span pages, uint64_t *need)
{
    unsigned order = level_order(&p2m->geometry, level);

    if (!table)
        return false;
    if (level == LEAF_LEVEL)
        return true;
    pages.end = min_u64(pages.end, request->limit[level + 1]);
    for (uint64_t gfn = pages.start; gfn < pages.end; gfn = next_boundary(gfn, order)) {
        uint64_t pte = pte_read(table + level_index(&p2m->geometry, level, gfn));
        struct span part = {gfn, min_u64(pages.end, next_boundary(gfn, order))};

        if (pte_is_present(&p2m->geometry, pte) && pte_is_table(pte, level)) {
            if (!count_need(p2m, request, p2m_next_table(p2m, pte), level + 1, part, need))
                return false;
        } else if (pte_is_present(&p2m->geometry, pte) || !removes(request->mfn)) {
            *need += tables_below(p2m, request, level, part);
        }
    }
    return true;
}

int update_reserve(struct p2mfast *p2m, uint64_t tables, uint64_t removed)
{
    const p2mfast_platform_t *platform = &p2m->platform;

    if (tables == CORRUPT_TREE)
        return P2MFAST_ERROR_CORRUPT;
    if (tables && (tables > p2m->max_tables - p2m->stats.tables ||
                   platform->reserve(platform->context, tables)))
        return P2MFAST_ERROR_TABLES;
    if (removed && platform->reserve_removed &&
        platform->reserve_removed(platform->context, removed))
        return P2MFAST_ERROR_MEMORY;
    return 0;
}

/* ---- Tables come ---- */

static uint64_t new_table(struct p2mfast *p2m, bool zeroed)
{
    uint64_t frame = p2m->platform.take(p2m->platform.context, zeroed);

    if (frame == NO_FRAME)
        return 0;
    __atomic_store_n(&p2m->stats.tables, p2m->stats.tables + 1,
                     __ATOMIC_RELAXED); /* batches look */
    return pte_table(p2m->platform.base_mfn + frame);
}

/* A table, not yet linked, that maps what the superpage maps, with its attributes and its bit 0. */
static uint64_t split(struct p2mfast *p2m, uint64_t pte, int level)
{
    uint64_t pointer = new_table(p2m, false);
    uint64_t first = pte | (level + 1 == LEAF_LEVEL ? PTE_TABLE : 0);

    if (!pointer)
        return 0;
    p2m->vec->fill(p2m_next_table(p2m, pointer), TABLE_WORDS, first,
                   level_pages(&p2m->geometry, level + 1) << PAGE_SHIFT);
    p2m->stats.shattered[level]++;
    p2m->stats.mappings[level]--;
    p2m->stats.mappings[level + 1] += TABLE_WORDS;
    if (pte_is_counted(pte))
        p2m->counted += TABLE_WORDS - 1;
    return pointer;
}

/* Split the superpage in `word` down to `target` on the way to gfn. All new tables are complete
 * before the first is linked, so that one invalidation does. Returns the new word. */
static uint64_t shatter(struct p2mfast *p2m, uint64_t *word, int level, int target, uint64_t gfn)
{
    const struct geometry *geometry = &p2m->geometry;
    uint64_t top = split(p2m, pte_read(word), level);
    uint64_t pointer = top;
    uint64_t start = align_down(gfn, level_order(geometry, level));

    for (int below = level + 1; pointer && below < target; below++) {
        uint64_t *entry = p2m_next_table(p2m, pointer) + level_index(geometry, below, gfn);

        pointer = split(p2m, *entry, below);
        *entry = pointer;
    }
    if (!pointer)
        return 0;
    p2m_write_begin(p2m);
    p2m_break(p2m, word, 1, 0, span_of(start, level_pages(geometry, level)), INVALIDATE_NOW);
    p2m_make_word(p2m, word, top);
    p2m_write_end(p2m);
    return top;
}

uint64_t *update_find_word(struct p2mfast *p2m, uint64_t gfn, int target, bool remove, int *stop)
{
    const struct geometry *geometry = &p2m->geometry;
    int level = geometry->root_level;
    uint64_t *word = p2m->root + level_index(geometry, level, gfn);

    for (; level < target; level++) {
        uint64_t pte = pte_read(word);

        *stop = level;
        if (!pte_is_present(geometry, pte)) {
            if (remove)
                return NULL;
            pte = new_table(p2m, true);
            if (pte)
                p2m_make_word(p2m, word, pte);
        } else if (!pte_is_table(pte, level)) {
            pte = shatter(p2m, word, level, target, gfn);
        }
        if (!pte) {
            *stop = geometry->root_level - 1;
            return NULL;
        }
        word = p2m_next_table(p2m, pte) + level_index(geometry, level + 1, gfn);
    }
    return word;
}

/* ---- Words change ---- */

/* The pages of the words that are valid: only they can be in a TLB. */
static struct span valid_pages(const struct p2mfast *p2m, const uint64_t *words, size_t n,
                               int level, uint64_t gfn)
{
    unsigned order = level_order(&p2m->geometry, level);
    size_t first = 0;

    while (first < n && !pte_is_valid(words[first]))
        first++;
    while (n > first && !pte_is_valid(words[n - 1]))
        n--;
    return (struct span){gfn + ((uint64_t)first << order), gfn + ((uint64_t)n << order)};
}

/* Counted mappings among n leaves that go, or that a new counted mapping of the same MFN keeps
 * (Xen drops no reference when only permissions change). */
static void settle_counted(struct p2mfast *p2m, const uint64_t *words, size_t n, int level,
                           uint64_t gfn, uint64_t mfn, uint64_t attributes)
{
    uint64_t pages = level_pages(&p2m->geometry, level);
    bool keeps = !removes(mfn) && pte_is_counted(attributes);

    for (size_t i = 0; p2m->counted && i < n; i++) {
        uint64_t pte = words[i];

        if (!pte_is_leaf(&p2m->geometry, pte, level) || !pte_is_counted(pte))
            continue;
        if (keeps && pte_mfn(&p2m->geometry, pte) == mfn + i * pages)
            p2m->counted--;
        else
            p2m_report_removed(p2m, pte, level, gfn + i * pages);
    }
    if (keeps)
        p2m->counted += n;
}

/* Do n leaves that are there become what they are, but for their rights? */
static bool only_rights_differ(const uint64_t *words, size_t n, uint64_t first, uint64_t step)
{
    for (size_t i = 0; i < n; i++, first += step)
        if ((pte_read(&words[i]) ^ first) & ~PTE_RIGHTS)
            return false;
    return true;
}

static void update_rights(struct p2mfast *p2m, uint64_t *words, size_t n, uint64_t gfn,
                          uint64_t first, uint64_t step)
{
    for (size_t i = 0; i < n; i++, first += step)
        p2m_make_rights(p2m, &words[i], first, span_of(gfn + i, pte_is_valid(first)));
}

void update_words(struct p2mfast *p2m, uint64_t *words, size_t n, int level, uint64_t gfn,
                  uint64_t mfn, uint64_t attributes)
{
    const struct geometry *geometry = &p2m->geometry;
    bool remove = removes(mfn);
    uint64_t any;
    size_t present = p2m->vec->count(words, n, geometry->type_mask, &any);
    uint64_t old = words[0];
    bool table = n == 1 && present && pte_is_table(old, level);

    if (remove && !present)
        return;
    if (p2m->mem_access && level == LEAF_LEVEL && !remove &&
        only_rights_differ(words, n, pte_leaf(attributes, mfn, level), TABLE_BYTES)) {
        update_rights(p2m, words, n, gfn, pte_leaf(attributes, mfn, level), TABLE_BYTES);
        return;
    }
    if (present || !remove)
        settle_counted(p2m, words, n, level, gfn, mfn, attributes);
    p2m_write_begin(p2m);
    if (any & PTE_VALID)
        p2m_break(p2m, words, n, 0, valid_pages(p2m, words, n, level, gfn),
                  remove ? INVALIDATE_LATER : INVALIDATE_NOW);
    else if (remove)
        p2m_break(p2m, words, n, 0, span_of(gfn, 0), INVALIDATE_NOTHING);
    if (!remove)
        p2m_make(p2m, words, n, pte_leaf(attributes, mfn, level),
                 level_pages(geometry, level) << PAGE_SHIFT);
    p2m_write_end(p2m);
    if (table)
        p2m_retire_table(p2m, p2m_next_table(p2m, old), level + 1, gfn);
    else
        p2m->stats.mappings[level] -= present;
    if (!remove)
        p2m->stats.mappings[level] += n;
}

/* The same for any words: where tables may be among them, one at a time. */
static void change_run(struct p2mfast *p2m, const struct request *request, uint64_t *words,
                       size_t n, int level, uint64_t gfn)
{
    uint64_t pages = level_pages(&p2m->geometry, level);
    uint64_t mfn = removes(request->mfn) ? request->mfn : request->mfn + (gfn - request->start);
    uint64_t any;

    if (level == LEAF_LEVEL || !p2m->vec->count(words, n, p2m->geometry.type_mask, &any)) {
        update_words(p2m, words, n, level, gfn, mfn, request->attributes);
        return;
    }
    for (size_t i = 0; i < n; i++)
        update_words(p2m, words + i, 1, level, gfn + i * pages,
                     removes(mfn) ? mfn : mfn + i * pages, request->attributes);
}

/* A new table full of leaves from gfn on, complete before it is linked: it need not be zeroed. */
static bool link_full_table(struct p2mfast *p2m, const struct request *request, uint64_t *word,
                            int level, uint64_t gfn)
{
    uint64_t pointer = new_table(p2m, false);

    if (!pointer)
        return false;
    p2m->vec->fill(p2m_next_table(p2m, pointer), TABLE_WORDS,
                   pte_leaf(request->attributes, request->mfn + (gfn - request->start), level),
                   level_pages(&p2m->geometry, level) << PAGE_SHIFT);
    p2m->stats.mappings[level] += TABLE_WORDS;
    if (pte_is_counted(request->attributes))
        p2m->counted += TABLE_WORDS;
    p2m_make_word(p2m, word, pointer);
    return true;
}

/* Whole tables' runs from gfn on, as long as no table is there and the table above goes on.
 * Returns the first page that was not mapped. */
static uint64_t map_new_tables(struct p2mfast *p2m, const struct request *request, int level,
                               uint64_t gfn)
{
    const struct geometry *geometry = &p2m->geometry;
    uint64_t pages = level_pages(geometry, level - 1);
    uint64_t above = level_words(geometry, level - 1) - level_index(geometry, level - 1, gfn);
    uint64_t end = min_u64(request->limit[level], gfn + above * pages);
    struct walk walk;
    uint64_t *word;
    int stop;

    if (gfn & (pages - 1) || gfn + pages > end ||
        p2m_walk(p2m, WALK_SOFTWARE, gfn, &walk) != WALK_HOLE || walk.level >= level)
        return gfn;
    word = update_find_word(p2m, gfn, level - 1, false, &stop);
    while (word && gfn + pages <= end && !pte_is_present(geometry, pte_read(word)) &&
           link_full_table(p2m, request, word, level, gfn)) {
        gfn += pages;
        word++;
    }
    return gfn;
}

static void apply(struct p2mfast *p2m, const struct request *request)
{
    const struct geometry *geometry = &p2m->geometry;
    uint64_t gfn = request->start;

    for (int level = LEAF_LEVEL; level >= 1; level--) {
        unsigned table_order = level_order(geometry, level - 1);

        while (gfn < request->limit[level]) {
            int stop = level;
            uint64_t *words;
            uint64_t end;

            if (level > geometry->root_level && !removes(request->mfn))
                gfn = map_new_tables(p2m, request, level, gfn);
            if (gfn == request->limit[level])
                break;
            end = min_u64(request->limit[level], next_boundary(gfn, table_order));
            words = update_find_word(p2m, gfn, level, removes(request->mfn), &stop);
            if (!words) {
                gfn =
                    min_u64(request->limit[level], next_boundary(gfn, level_order(geometry, stop)));
                continue;
            }
            change_run(p2m, request, words, (end - gfn) >> level_order(geometry, level), level,
                       gfn);
            gfn = end;
        }
    }
}

void update_extend_bounds(struct p2mfast *p2m, uint64_t first, uint64_t last)
{
    __atomic_store_n(&p2m->max_mapped_gfn, max_u64(p2m->max_mapped_gfn, last), __ATOMIC_RELAXED);
    __atomic_store_n(&p2m->lowest_mapped_gfn, min_u64(p2m->lowest_mapped_gfn, first),
                     __ATOMIC_RELAXED);
}

/* ---- Ranges ---- */

int update_check_pages(const struct p2mfast *p2m, uint64_t gfn, uint64_t nr, uint64_t mfn)
{
    const struct geometry *geometry = &p2m->geometry;

    if (!nr)
        return P2MFAST_ERROR_ARGUMENT;
    if (gfn >= geometry->gfn_limit || nr > geometry->gfn_limit - gfn)
        return P2MFAST_ERROR_RANGE;
    if (!removes(mfn) && (mfn >= geometry->mfn_limit || nr > geometry->mfn_limit - mfn))
        return P2MFAST_ERROR_RANGE;
    return 0;
}

int update_check_kind(unsigned type, unsigned access, unsigned flags, bool remove)
{
    const unsigned known = P2MFAST_ARMED | P2MFAST_MAX_ORDER_9 | P2MFAST_MAX_ORDER_0;

    if (type >= P2MFAST_TYPE_COUNT || access >= P2MFAST_ACCESS_COUNT || flags & ~known ||
        (type == P2MFAST_INVALID && !remove))
        return P2MFAST_ERROR_ARGUMENT;
    return 0;
}

uint64_t update_attributes(unsigned type, unsigned access, unsigned flags)
{
    return pte_attributes(type, access) & ~(flags & P2MFAST_ARMED ? PTE_VALID : 0);
}

/* Under the lock: the request is applied whole, or refused and nothing has changed. */
static int update(struct p2mfast *p2m, struct request *request, unsigned flags)
{
    struct span pages = {request->start, request->end};
    uint64_t need = 0;
    int error;

    if (p2m->mem_access) /* its granularity is the page, as in Xen */
        flags |= P2MFAST_MAX_ORDER_0;
    plan(p2m, request, removes(request->mfn) ? 0 : flags);
    if (!count_need(p2m, request, p2m->root, p2m->geometry.root_level, pages, &need))
        return P2MFAST_ERROR_CORRUPT;
    /* What goes of one leaf is one run, whatever it is split into on the way. */
    error = update_reserve(p2m, need, min_u64(p2m->counted, pages.end - pages.start));
    if (!error)
        error = access_reserve(p2m, pages.start, pages.end - pages.start, request->access);
    if (error)
        return error;
    access_set(p2m, pages.start, pages.end - pages.start, request->access);
    if (!removes(request->mfn))
        update_extend_bounds(p2m, request->start, request->end - 1);
    apply(p2m, request);
    p2m_release_retired(p2m);
    return 0;
}

int p2mfast_set_entry(p2mfast_t *p2m, uint64_t gfn, uint64_t nr, uint64_t mfn, unsigned type,
                      unsigned access, unsigned flags)
{
    struct request request = {.start = gfn, .end = gfn + nr, .mfn = mfn, .access = access};
    int error = update_check_pages(p2m, gfn, nr, mfn);

    if (!error)
        error = update_check_kind(type, access, flags, removes(mfn));
    if (error)
        return error;
    if (removes(mfn)) /* what is mapped here next starts with all rights */
        request.access = P2MFAST_ACCESS_RWX;
    request.attributes = update_attributes(type, access, flags);
    p2m_lock(p2m);
    error = update(p2m, &request, flags);
    p2m_unlock(p2m);
    return error;
}

/* Does all RAM in the range belong to mfn? Compared once a block, as Xen does. */
static bool range_matches(const struct p2mfast *p2m, uint64_t gfn, uint64_t nr, uint64_t mfn)
{
    const struct geometry *geometry = &p2m->geometry;
    uint64_t end = gfn + nr;
    struct walk walk;

    for (uint64_t at = gfn; at < end;) {
        enum walk_outcome outcome = p2m_walk(p2m, WALK_SOFTWARE, at, &walk);

        if (outcome == WALK_LEAF && pte_is_any_ram(walk.pte) &&
            walk_leaf_mfn(geometry, &walk) != mfn + (at - gfn))
            return false;
        at = next_boundary(at, level_order(geometry, walk.level));
    }
    return true;
}

int p2mfast_remove_mapping(p2mfast_t *p2m, uint64_t gfn, uint64_t nr, uint64_t mfn)
{
    struct request request = {
        .start = gfn, .end = gfn + nr, .mfn = P2MFAST_INVALID_MFN, .access = P2MFAST_ACCESS_RWX};
    int error = update_check_pages(p2m, gfn, nr, mfn);

    if (error)
        return error;
    p2m_lock(p2m);
    if (range_matches(p2m, gfn, nr, mfn))
        error = update(p2m, &request, 0);
    else
        error = P2MFAST_ERROR_MISMATCH;
    p2m_unlock(p2m);
    return error;
}
