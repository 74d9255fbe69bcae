/* SPDX-License-Identifier: Apache-2.0 */
#include "access.h"
#include "update.h"

#define PAGE_GFNS ((uint64_t)1 << ACCESS_PAGE_ORDER)
#define FANOUT_ORDER 9
#define FANOUT ((uint64_t)1 << FANOUT_ORDER)

/* ---- The store ---- */

static void *load(void *const *slot)
{
    return __atomic_load_n(slot, __ATOMIC_ACQUIRE);
}

/* The slot of gfn in a page of pointers, `height` levels above the bytes. */
static uint64_t slot_of(uint64_t gfn, unsigned height)
{
    return gfn >> (ACCESS_PAGE_ORDER + FANOUT_ORDER * (height - 1)) & (FANOUT - 1);
}

/* The page of bytes that holds gfn, or NULL where none is needed yet. */
static uint8_t *bytes_of(const struct p2mfast *p2m, uint64_t gfn)
{
    void *page = load(&p2m->access);

    for (unsigned height = ACCESS_HEIGHT; page && height > 0; height--)
        page = load((void **)page + slot_of(gfn, height));
    return page;
}

static int link_pages(struct p2mfast *p2m, uint64_t gfn)
{
    void **slot = &p2m->access;

    for (unsigned height = ACCESS_HEIGHT;; height--) {
        if (!*slot) {
            void *page = p2m->platform.side_page(p2m->platform.context);

            if (!page)
                return P2MFAST_ERROR_MEMORY;
            __atomic_store_n(slot, page, __ATOMIC_RELEASE);
        }
        if (!height)
            return 0;
        slot = (void **)*slot + slot_of(gfn, height);
    }
}

uint8_t access_get(const struct p2mfast *p2m, uint64_t gfn)
{
    const uint8_t *bytes;
    uint8_t differs = 0;

    if (!__atomic_load_n(&p2m->mem_access, __ATOMIC_RELAXED))
        return P2MFAST_ACCESS_RWX;
    bytes = bytes_of(p2m, gfn);
    if (bytes)
        differs = __atomic_load_n(&bytes[gfn % PAGE_GFNS], __ATOMIC_RELAXED);
    return differs ^ P2MFAST_ACCESS_RWX;
}

const uint8_t *access_next_page(const struct p2mfast *p2m, uint64_t *gfn)
{
    while (*gfn < p2m->geometry.gfn_limit) {
        unsigned height = ACCESS_HEIGHT;
        void *page = load(&p2m->access);

        for (; page && height > 0; height--)
            page = load((void **)page + slot_of(*gfn, height));
        if (page) {
            *gfn = align_down(*gfn, ACCESS_PAGE_ORDER);
            return page;
        }
        *gfn = next_boundary(*gfn, ACCESS_PAGE_ORDER + FANOUT_ORDER * height);
    }
    return NULL;
}

int access_put_page(struct p2mfast *p2m, uint64_t gfn, const uint8_t *bytes)
{
    int error;

    for (uint64_t i = 0; i < PAGE_GFNS; i++)
        if ((bytes[i] ^ P2MFAST_ACCESS_RWX) >= P2MFAST_ACCESS_COUNT)
            return P2MFAST_ERROR_ARGUMENT;
    error = link_pages(p2m, gfn);
    if (!error)
        __builtin_memcpy(bytes_of(p2m, gfn), bytes, PAGE_GFNS);
    return error;
}

int access_reserve(struct p2mfast *p2m, uint64_t gfn, uint64_t nr, unsigned access)
{
    if (!p2m->mem_access || access == P2MFAST_ACCESS_RWX)
        return 0;
    for (uint64_t at = gfn; at < gfn + nr; at = next_boundary(at, ACCESS_PAGE_ORDER)) {
        int error = link_pages(p2m, at);

        if (error)
            return error;
    }
    return 0;
}

void access_set(struct p2mfast *p2m, uint64_t gfn, uint64_t nr, unsigned access)
{
    uint64_t end = gfn + nr;

    if (!p2m->mem_access || !p2m->access)
        return;
    while (gfn < end) {
        uint8_t *bytes = bytes_of(p2m, gfn);
        uint64_t next = min_u64(end, next_boundary(gfn, ACCESS_PAGE_ORDER));

        for (; bytes && gfn < next; gfn++)
            __atomic_store_n(&bytes[gfn % PAGE_GFNS], (uint8_t)(access ^ P2MFAST_ACCESS_RWX),
                             __ATOMIC_RELAXED);
        gfn = next;
    }
}

/* ---- The API ---- */

int p2mfast_enable_mem_access(p2mfast_t *p2m, int enabled)
{
    if (enabled && !p2m->platform.side_page)
        return P2MFAST_ERROR_MEMORY;
    p2m_lock(p2m);
    __atomic_store_n(&p2m->mem_access, enabled != 0, __ATOMIC_RELAXED);
    p2m_unlock(p2m);
    return 0;
}

int p2mfast_mem_access_enabled(const p2mfast_t *p2m)
{
    return __atomic_load_n(&p2m->mem_access, __ATOMIC_RELAXED);
}

/* Tables that splitting every superpage of [gfn, end) takes are added to *tables; pages for the
 * access of what is mapped there are linked (none for RWX). */
static int visit_mapped(struct p2mfast *p2m, uint64_t gfn, uint64_t end, unsigned access,
                        uint64_t *tables)
{
    const struct geometry *geometry = &p2m->geometry;
    int error = 0;
    struct walk walk;

    while (gfn < end && !error) {
        enum walk_outcome outcome = p2m_walk(p2m, WALK_SOFTWARE, gfn, &walk);
        uint64_t next = min_u64(end, next_boundary(gfn, level_order(geometry, walk.level)));

        if (outcome == WALK_FAULT)
            return P2MFAST_ERROR_CORRUPT;
        if (outcome == WALK_LEAF)
            for (int level = walk.level; level < LEAF_LEVEL; level++)
                *tables += ((next - 1) >> level_order(geometry, level)) -
                           (gfn >> level_order(geometry, level)) + 1;
        if (walk.level == LEAF_LEVEL) /* and so are its neighbours in that table */
            next = min_u64(end, next_boundary(gfn, level_order(geometry, LEAF_LEVEL - 1)));
        if (outcome == WALK_LEAF || walk.level == LEAF_LEVEL)
            error = access_reserve(p2m, gfn, next - gfn, access);
        gfn = next;
    }
    return error;
}

/* Everything that could still fail. */
static int reserve(struct p2mfast *p2m, uint64_t gfn, uint64_t end, unsigned access)
{
    uint64_t tables = 0;
    int error = visit_mapped(p2m, gfn, end, P2MFAST_ACCESS_RWX, &tables);

    if (!error)
        error = update_reserve(p2m, tables, 0);
    return error ? error : visit_mapped(p2m, gfn, end, access, &tables);
}

/* What is mapped of [gfn, end) in one last table: other rights, the rest stays. */
static void change_rights(struct p2mfast *p2m, uint64_t *words, uint64_t gfn, uint64_t end,
                          unsigned access)
{
    for (; gfn < end; gfn++, words++) {
        uint64_t pte = pte_read(words);
        uint64_t made;

        if (!pte_is_present(&p2m->geometry, pte) || pte_type(pte) >= P2MFAST_TYPE_COUNT)
            continue;
        made = (pte & ~PTE_RIGHTS) | (pte_attributes(pte_type(pte), access) & PTE_RIGHTS);
        access_set(p2m, gfn, 1, access);
        if (made != pte)
            p2m_make_rights(p2m, words, made, span_of(gfn, pte_is_valid(pte)));
    }
}

static int set_mem_access(struct p2mfast *p2m, uint64_t gfn, uint64_t end, unsigned access)
{
    unsigned table_order = level_order(&p2m->geometry, LEAF_LEVEL - 1);
    int error = reserve(p2m, gfn, end, access);

    if (error)
        return error;
    while (gfn < end) {
        int stop = LEAF_LEVEL;
        uint64_t *words = update_find_word(p2m, gfn, LEAF_LEVEL, true, &stop);
        uint64_t next = min_u64(
            end, next_boundary(gfn, words ? table_order : level_order(&p2m->geometry, stop)));

        if (words)
            change_rights(p2m, words, gfn, next, access);
        gfn = next;
    }
    p2m_invalidate_stale(p2m);
    return 0;
}

int p2mfast_set_mem_access(p2mfast_t *p2m, uint64_t gfn, uint64_t nr, unsigned access)
{
    int error = update_check_pages(p2m, gfn, nr, P2MFAST_INVALID_MFN);
    bool before;

    if (!error && access >= P2MFAST_ACCESS_COUNT)
        error = P2MFAST_ERROR_ARGUMENT;
    if (!error && !p2m->platform.side_page)
        error = P2MFAST_ERROR_MEMORY;
    if (error)
        return error;
    p2m_lock(p2m);
    before = p2m->mem_access;
    __atomic_store_n(&p2m->mem_access, true, __ATOMIC_RELAXED);
    error = set_mem_access(p2m, gfn, gfn + nr, access);
    if (error)
        __atomic_store_n(&p2m->mem_access, before, __ATOMIC_RELAXED);
    p2m_unlock(p2m);
    return error;
}
