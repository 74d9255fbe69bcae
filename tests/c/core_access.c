/*
 * mem_access: what each page was given is kept, in pages and in their descriptors, and rights
 * change in place.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "core_tests.h"
#include "pool.h"

#define BLOCK 512u
#define SIDE 4096u /* GFNs whose access a side page keeps */
#define MFN 0x100000u
#define SEEN (5 * SIDE)
#define ALL P2MFAST_ACCESS_RWX

/* What the platform saw: every invalidation, and whether these words were ever broken. */
static struct span invalidated[8];
static unsigned n_invalidated;
static const uint64_t *unbroken;
static uint64_t n_unbroken;
static p2mfast_platform_t below;

static void barrier(void *context)
{
    for (uint64_t i = 0; i < n_unbroken; i++)
        CHECK(unbroken[i] & PTE_VALID);
    below.barrier(context);
}

static void invalidate_tlb(void *context, uint64_t gfn, uint64_t nr)
{
    if (n_invalidated < 8)
        invalidated[n_invalidated] = span_of(gfn, nr);
    n_invalidated++;
    for (uint64_t i = 0; i < n_unbroken; i++)
        CHECK(unbroken[i] & PTE_VALID);
    below.invalidate_tlb(context, gfn, nr);
}

static struct p2mfast *start(unsigned side_limit)
{
    p2mfast_config_t config = pool_config(40);
    p2mfast_platform_t platform = below = pool_platform(POOL_FRAMES);

    platform.side_page = pool_side_page;
    platform.barrier = barrier;
    platform.invalidate_tlb = invalidate_tlb;
    pool.side_limit = side_limit;
    n_unbroken = n_invalidated = 0;
    return pool_init(&platform, &config);
}

static struct p2mfast *start_enabled(void)
{
    struct p2mfast *p2m = start(POOL_SIDE_PAGES);

    CHECK_EQUAL(p2mfast_mem_access_enabled(p2m), 0);
    CHECK_EQUAL(p2mfast_enable_mem_access(p2m, 1), 0);
    CHECK_EQUAL(p2mfast_mem_access_enabled(p2m), 1);
    return p2m;
}

static int map(struct p2mfast *p2m, uint64_t gfn, uint64_t nr, uint64_t mfn, unsigned access)
{
    return p2mfast_set_entry(p2m, gfn, nr, mfn, P2MFAST_RAM_RW, access, 0);
}

/* What both look-ups say of nr pages. */
static void check_access(const struct p2mfast *p2m, uint64_t gfn, uint64_t nr, unsigned access)
{
    static p2mfast_entry_t entries[SEEN];
    static uint64_t gfns[SEEN];
    p2mfast_entry_t entry;

    for (uint64_t i = 0; i < nr; i++)
        gfns[i] = gfn + i;
    CHECK_EQUAL(p2mfast_get_entries(p2m, gfns, nr, entries), 0);
    for (uint64_t i = 0; i < nr; i++) {
        CHECK_EQUAL(p2mfast_get_entry(p2m, gfns[i], &entry), 0);
        CHECK_EQUAL(entry.access, access);
        CHECK_EQUAL(entries[i].access, access);
        CHECK(entry.mfn == entries[i].mfn && entry.type == entries[i].type);
    }
}

static void test_without_side_pages(void)
{
    struct p2mfast *p2m = pool_start(40);

    CHECK_EQUAL(pool_map(p2m, 0, BLOCK, MFN, 0), 0);
    pool_snapshot(p2m);
    CHECK_EQUAL(p2mfast_enable_mem_access(p2m, 1), P2MFAST_ERROR_MEMORY);
    CHECK_EQUAL(p2mfast_set_mem_access(p2m, 0, 1, P2MFAST_ACCESS_R), P2MFAST_ERROR_MEMORY);
    CHECK_EQUAL(p2mfast_enable_mem_access(p2m, 0), 0);
    CHECK_EQUAL(p2mfast_mem_access_enabled(p2m), 0);
    CHECK_UNCHANGED(p2m);
    check_access(p2m, 0, BLOCK, ALL);
}

static void test_kept(void)
{
    struct p2mfast *p2m = start_enabled();
    uint64_t gfns[] = {SIDE - 1, SIDE, UINT64_C(1) << 27, SIDE};
    uint64_t mfns[] = {1, 2, 3, 4};

    CHECK_EQUAL(map(p2m, BLOCK, BLOCK, MFN, ALL), 0);
    CHECK_EQUAL(map(p2m, 2 * BLOCK, BLOCK, MFN + BLOCK, P2MFAST_ACCESS_RX), 0);
    CHECK_EQUAL(pool_stats(p2m).mappings[3], 2 * BLOCK);
    CHECK_EQUAL(pool_stats(p2m).mappings[2], 0);
    CHECK_EQUAL(p2mfast_set_entries(p2m, gfns, mfns, 4, P2MFAST_RAM_RW, P2MFAST_ACCESS_RW, 0), 0);
    for (unsigned access = 0; access < P2MFAST_ACCESS_COUNT; access++)
        CHECK_EQUAL(map(p2m, access, 1, MFN + access, access), 0);
    for (unsigned again = 0; again < 2; again++) {
        for (unsigned access = 0; access < P2MFAST_ACCESS_COUNT; access++)
            check_access(p2m, access, 1, access);
        check_access(p2m, P2MFAST_ACCESS_COUNT, 20, P2MFAST_NO_ACCESS);
        check_access(p2m, BLOCK, BLOCK, ALL);
        check_access(p2m, 2 * BLOCK, BLOCK, P2MFAST_ACCESS_RX);
        for (unsigned i = 0; i < 3; i++)
            check_access(p2m, gfns[i], 1, P2MFAST_ACCESS_RW);
        CHECK_EQUAL(p2mfast_enable_mem_access(p2m, 0), 0);
        check_access(p2m, 2 * BLOCK - 5, 10, ALL);
        check_access(p2m, gfns[2], 1, ALL);
        check_access(p2m, 3 * BLOCK, 1, P2MFAST_NO_ACCESS);
        CHECK_EQUAL(p2mfast_enable_mem_access(p2m, 1), 0);
    }
    CHECK_EQUAL(p2mfast_enable_mem_access(p2m, 0), 0);
    CHECK_EQUAL(map(p2m, 4 * BLOCK, BLOCK, MFN, ALL), 0);
    CHECK_EQUAL(pool_order(p2m, 4 * BLOCK), 9);
    CHECK_SOUND(p2m);
}

/* What is removed starts again with RWX; only where nothing is kept meanwhile can that be seen. */
static void test_removal(void)
{
    struct p2mfast *p2m = start_enabled();
    uint64_t gfn = 2;
    uint64_t none = P2MFAST_INVALID_MFN;

    CHECK_EQUAL(map(p2m, 0, 4, MFN, P2MFAST_ACCESS_R), 0);
    CHECK_EQUAL(p2mfast_set_entry(p2m, 0, 1, none, P2MFAST_RAM_RW, P2MFAST_ACCESS_R, 0), 0);
    CHECK_EQUAL(p2mfast_remove_mapping(p2m, 1, 1, MFN + 1), 0);
    CHECK_EQUAL(p2mfast_set_entries(p2m, &gfn, &none, 1, P2MFAST_RAM_RW, P2MFAST_ACCESS_R, 0), 0);
    check_access(p2m, 0, 3, P2MFAST_NO_ACCESS);
    check_access(p2m, 3, 1, P2MFAST_ACCESS_R);
    CHECK_EQUAL(p2mfast_enable_mem_access(p2m, 0), 0);
    CHECK_EQUAL(map(p2m, 0, 3, MFN, ALL), 0);
    CHECK_EQUAL(p2mfast_enable_mem_access(p2m, 1), 0);
    check_access(p2m, 0, 3, ALL);
    check_access(p2m, 3, 1, P2MFAST_ACCESS_R);
    CHECK_SOUND(p2m);
}

/* Two superpages, armed pages, a device, a hole; from the middle of the first on. */
static void test_set_shatters(void)
{
    static uint64_t before[3 * BLOCK];
    struct p2mfast *p2m = start(POOL_SIDE_PAGES);
    const uint64_t from = BLOCK + 88, armed = 3 * BLOCK, device = armed + 8, end = device + 1;

    CHECK_EQUAL(map(p2m, BLOCK, 2 * BLOCK, MFN, ALL), 0);
    CHECK_EQUAL(p2mfast_set_entry(p2m, armed, 4, 0x77, P2MFAST_RAM_RW, ALL, P2MFAST_ARMED), 0);
    CHECK_EQUAL(map(p2m, armed + 4, 3, MFN, ALL), 0);
    CHECK_EQUAL(p2mfast_set_entry(p2m, device, 2, 0x99, P2MFAST_MMIO_DIRECT_DEV, ALL, 0), 0);
    for (uint64_t gfn = BLOCK; gfn < 3 * BLOCK; gfn++)
        before[gfn - BLOCK] = (*pool_word(p2m, 2, gfn) | PTE_TABLE) + (gfn % BLOCK << PAGE_SHIFT);
    for (uint64_t gfn = armed; gfn <= end; gfn++)
        before[gfn - BLOCK] = *pool_word(p2m, 3, gfn);
    n_invalidated = 0;
    CHECK_EQUAL(p2mfast_set_mem_access(p2m, from, end - from, P2MFAST_ACCESS_R), 0);
    CHECK_EQUAL(p2mfast_mem_access_enabled(p2m), 1);
    CHECK_EQUAL(pool_stats(p2m).shattered[2], 2);
    for (uint64_t gfn = BLOCK; gfn <= end; gfn++) {
        uint64_t want = before[gfn - BLOCK];

        if (gfn >= from && gfn < end && want)
            want = (want & ~(PTE_WRITE | PTE_XN)) | PTE_READ | PTE_XN;
        CHECK_EQUAL(*pool_word(p2m, 3, gfn), want);
        check_access(p2m, gfn, 1,
                     !want                      ? P2MFAST_NO_ACCESS
                     : gfn >= from && gfn < end ? P2MFAST_ACCESS_R
                                                : ALL);
    }
    /* The second superpage's takes with it what was due; the last is of the rest. */
    CHECK_EQUAL(n_invalidated, 3);
    CHECK(invalidated[0].start == BLOCK && invalidated[0].end == 2 * BLOCK);
    CHECK(invalidated[1].start == from && invalidated[1].end == 3 * BLOCK);
    CHECK(invalidated[2].start == 2 * BLOCK && invalidated[2].end == end);
    CHECK_SOUND(p2m);

    /* Pages alone: one, of what changed and can be cached, and nothing is broken. */
    n_invalidated = 0;
    unbroken = pool_word(p2m, 3, BLOCK);
    n_unbroken = BLOCK;
    CHECK_EQUAL(p2mfast_set_mem_access(p2m, from, armed + 4 - from, P2MFAST_ACCESS_RX), 0);
    n_unbroken = 0;
    CHECK_EQUAL(n_invalidated, 1);
    CHECK(invalidated[0].start == from && invalidated[0].end == armed);
    CHECK(!(*pool_word(p2m, 3, armed) & PTE_VALID));
    check_access(p2m, from, armed + 4 - from, P2MFAST_ACCESS_RX);
    /* Nothing changes, holes alone, or what nobody can have cached: none. */
    CHECK_EQUAL(p2mfast_set_mem_access(p2m, from, 9, P2MFAST_ACCESS_RX), 0);
    CHECK_EQUAL(p2mfast_set_mem_access(p2m, 5 * BLOCK, 9, P2MFAST_ACCESS_R), 0);
    CHECK_EQUAL(p2mfast_set_mem_access(p2m, armed, 4, P2MFAST_ACCESS_W), 0);
    CHECK_EQUAL(n_invalidated, 1);
    check_access(p2m, armed, 4, P2MFAST_ACCESS_W);
    check_access(p2m, 5 * BLOCK, 9, P2MFAST_NO_ACCESS);
    CHECK_SOUND(p2m);
}

static void test_replace_in_place(void)
{
    struct p2mfast *p2m = start_enabled();
    uint64_t gfns[] = {9, 3};
    uint64_t mfns[] = {MFN + 9, MFN + 3};
    const unsigned types[] = {P2MFAST_RAM_RW, P2MFAST_MAP_FOREIGN_RW};

    for (unsigned i = 0; i < 2; i++) {
        CHECK_EQUAL(p2mfast_set_entry(p2m, 0, BLOCK, MFN, types[i], ALL, 0), 0);
        unbroken = pool_word(p2m, 3, 0);
        n_unbroken = BLOCK;
        n_invalidated = 0;
        CHECK_EQUAL(p2mfast_set_entry(p2m, 5, 100, MFN + 5, types[i], P2MFAST_ACCESS_R, 0), 0);
        CHECK_EQUAL(n_invalidated, 1);
        CHECK(invalidated[0].start == 5 && invalidated[0].end == 105);
        CHECK_EQUAL(p2mfast_set_entries(p2m, gfns, mfns, 2, types[i], P2MFAST_ACCESS_N, 0), 0);
        CHECK_EQUAL(n_invalidated, 3);
        n_unbroken = 0;
        CHECK_EQUAL(*pool_word(p2m, 3, 9) & PTE_RIGHTS, PTE_XN);
        CHECK_EQUAL(*pool_word(p2m, 3, 10) & PTE_RIGHTS, PTE_READ | PTE_XN);
        check_access(p2m, 9, 1, P2MFAST_ACCESS_N);
        check_access(p2m, 10, 95, P2MFAST_ACCESS_R);
        CHECK_EQUAL(pool.removals, 0);
        CHECK_EQUAL(pool_stats(p2m).mappings[3], BLOCK);
        CHECK_SOUND(p2m);
    }
}

static int change_much(struct p2mfast *p2m, unsigned way)
{
    uint64_t gfns[] = {3, SIDE, 2 * SIDE, 3 * SIDE};
    uint64_t mfns[] = {1, 2, P2MFAST_INVALID_MFN, 4};

    if (way == 0)
        return map(p2m, 3, 3 * SIDE, MFN + 5, P2MFAST_ACCESS_R);
    if (way == 1)
        return p2mfast_set_entries(p2m, gfns, mfns, 4, P2MFAST_RAM_RW, P2MFAST_ACCESS_R, 0);
    return p2mfast_set_mem_access(p2m, 3, SEEN - 3, P2MFAST_ACCESS_R);
}

/* One side page is left where two or more are needed: three ways, and nothing has changed. */
static void test_side_pages_run_out(void)
{
    for (unsigned way = 0; way < 4; way++) {
        struct p2mfast *p2m = start(POOL_SIDE_PAGES);

        CHECK_EQUAL(map(p2m, 3 * SIDE, BLOCK, MFN + 3 * SIDE, ALL), 0);
        CHECK_EQUAL(p2mfast_enable_mem_access(p2m, 1), 0);
        CHECK_EQUAL(map(p2m, 0, 16, MFN, P2MFAST_ACCESS_RX), 0);
        CHECK_EQUAL(map(p2m, SIDE - 8, 16, MFN, ALL), 0);
        pool.side_limit = 1;
        CHECK_EQUAL(p2mfast_enable_mem_access(p2m, way < 3), 0);
        pool_snapshot(p2m);
        CHECK_EQUAL(change_much(p2m, way), P2MFAST_ERROR_MEMORY);
        CHECK_EQUAL(pool.side_limit, 0);
        CHECK_EQUAL(p2mfast_mem_access_enabled(p2m), way < 3);
        CHECK_UNCHANGED(p2m);
        CHECK_EQUAL(p2mfast_enable_mem_access(p2m, 1), 0);
        check_access(p2m, 0, 16, P2MFAST_ACCESS_RX);
        check_access(p2m, 16, SIDE - 24, P2MFAST_NO_ACCESS);
        check_access(p2m, SIDE - 8, 16, ALL);
        check_access(p2m, 3 * SIDE, BLOCK, ALL);
        /* RWX is what a page says that is not there. */
        CHECK_EQUAL(p2mfast_set_mem_access(p2m, 2 * SIDE, SIDE, ALL), 0);
        pool.side_limit = 8;
        CHECK_EQUAL(change_much(p2m, way), 0);
        check_access(p2m, 3, 1, P2MFAST_ACCESS_R);
        CHECK_SOUND(p2m);
    }
}

static void test_tables_run_out(void)
{
    struct p2mfast *p2m = start(POOL_SIDE_PAGES);

    CHECK_EQUAL(map(p2m, BLOCK, 2 * BLOCK, MFN + BLOCK, ALL), 0);
    CHECK_EQUAL(map(p2m, 0, 1, MFN, ALL), 0);
    for (int enabled = 0; enabled < 2; enabled++) {
        CHECK_EQUAL(p2mfast_enable_mem_access(p2m, enabled), 0);
        for (unsigned way = 0; way < 2; way++) {
            pool.refuse_tables = way;
            p2m->max_tables = way ? POOL_FRAMES : p2m->stats.tables + 1;
            pool_snapshot(p2m);
            CHECK_EQUAL(p2mfast_set_mem_access(p2m, 0, 2 * BLOCK + 1, P2MFAST_ACCESS_R),
                        P2MFAST_ERROR_TABLES);
            CHECK_EQUAL(p2mfast_mem_access_enabled(p2m), enabled);
            CHECK_UNCHANGED(p2m);
            check_access(p2m, 0, 1, ALL);
            check_access(p2m, BLOCK, 2 * BLOCK, ALL);
        }
        pool.refuse_tables = false;
    }
    /* Two are just enough. */
    p2m->max_tables = p2m->stats.tables + 2;
    CHECK_EQUAL(p2mfast_set_mem_access(p2m, 0, 2 * BLOCK + 1, P2MFAST_ACCESS_R), 0);
    check_access(p2m, BLOCK, BLOCK + 1, P2MFAST_ACCESS_R);
    check_access(p2m, 2 * BLOCK + 1, BLOCK - 1, ALL);
    CHECK_SOUND(p2m);
}

static void test_arguments(void)
{
    struct p2mfast *p2m = start(POOL_SIDE_PAGES);
    const uint64_t limit = UINT64_C(1) << 28;

    CHECK_EQUAL(map(p2m, 0, BLOCK, MFN, ALL), 0);
    pool_snapshot(p2m);
    CHECK_EQUAL(p2mfast_set_mem_access(p2m, 0, 0, 1), P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(p2mfast_set_mem_access(p2m, 0, 1, P2MFAST_ACCESS_COUNT), P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(p2mfast_set_mem_access(p2m, 0, 1, P2MFAST_NO_ACCESS), P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(p2mfast_set_mem_access(p2m, limit, 1, 1), P2MFAST_ERROR_RANGE);
    CHECK_EQUAL(p2mfast_set_mem_access(p2m, limit - 1, 2, 1), P2MFAST_ERROR_RANGE);
    CHECK_EQUAL(p2mfast_set_mem_access(p2m, 1, UINT64_MAX, 1), P2MFAST_ERROR_RANGE);
    CHECK_EQUAL(p2mfast_set_mem_access(p2m, UINT64_MAX, 1, 1), P2MFAST_ERROR_RANGE);
    CHECK_UNCHANGED(p2m);
    CHECK_EQUAL(p2mfast_set_mem_access(p2m, limit - 1, 1, 1), 0);
}

void core_access_tests(void)
{
    RUN(test_without_side_pages);
    RUN(test_kept);
    RUN(test_removal);
    RUN(test_set_shatters);
    RUN(test_replace_in_place);
    RUN(test_side_pages_run_out);
    RUN(test_tables_run_out);
    RUN(test_arguments);
}
