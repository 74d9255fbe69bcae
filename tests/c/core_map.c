/*
 * Map, look up, translate, remove; superpages: chosen, shattered, put over tables.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "core_tests.h"
#include "pool.h"

#define BLOCK 512u
#define GIB (BLOCK * BLOCK)

static const unsigned ipa_sizes[] = {32, 36, 40, 42, 44, 48};

static void check_translates(const struct p2mfast *p2m, uint64_t gfn, uint64_t mfn, int level)
{
    p2mfast_translation_t result;

    CHECK_EQUAL(p2mfast_translate(p2m, gfn << 12 | 0xabc, 7, &result), 0);
    CHECK_EQUAL(result.fault, P2MFAST_FAULT_NONE);
    CHECK_EQUAL(result.pa, mfn << 12 | 0xabc);
    CHECK_EQUAL(result.level, level);
    /* RAM_RW RWX: valid, write-back, read and write, inner shareable, AF; bit 1 in a page only. */
    CHECK_EQUAL(result.attrs, UINT64_C(0x0080000000000000) | 0x7fd | (level == 3 ? 2 : 0));
}

static void check_faults(const struct p2mfast *p2m, uint64_t gfn)
{
    p2mfast_translation_t result;

    CHECK_EQUAL(p2mfast_translate(p2m, gfn << 12, 1, &result), 0);
    CHECK_EQUAL(result.fault, P2MFAST_FAULT_TRANSLATION);
    CHECK_EQUAL(result.pa, 0);
    CHECK_EQUAL(result.attrs, 0);
}

/* Every page of [gfn, gfn + nr), by its borders and its middle. */
static void check_mapped(const struct p2mfast *p2m, uint64_t gfn, uint64_t nr, uint64_t mfn,
                         unsigned order)
{
    const uint64_t offsets[] = {0, nr / 2, nr - 1};

    for (unsigned i = 0; i < 3; i++) {
        p2mfast_entry_t entry;

        CHECK_EQUAL(p2mfast_get_entry(p2m, gfn + offsets[i], &entry), 0);
        CHECK_EQUAL(entry.mfn, mfn + offsets[i]);
        CHECK_EQUAL(entry.order, order);
        CHECK_EQUAL(entry.type, P2MFAST_RAM_RW);
        CHECK_EQUAL(entry.access, P2MFAST_ACCESS_RWX);
        CHECK(entry.valid && entry.reachable);
        check_translates(p2m, gfn + offsets[i], mfn + offsets[i], 3 - (int)order / 9);
    }
}

static void check_hole(const struct p2mfast *p2m, uint64_t gfn)
{
    p2mfast_entry_t entry;

    CHECK_EQUAL(p2mfast_get_entry(p2m, gfn, &entry), 0);
    CHECK_EQUAL(entry.mfn, P2MFAST_INVALID_MFN);
    CHECK_EQUAL(entry.type, P2MFAST_INVALID);
    CHECK_EQUAL(entry.access, P2MFAST_NO_ACCESS);
    CHECK(!entry.valid && !entry.reachable);
    check_faults(p2m, gfn);
}

static void check_facts(const struct p2mfast *p2m, unsigned ipa_bits)
{
    uint64_t root_bytes = p2mfast_root_pages(p2m) * UINT64_C(4096);
    int levels = 4 - p2mfast_root_level(p2m);

    CHECK_EQUAL(p2mfast_ipa_bits(p2m), ipa_bits);
    CHECK_EQUAL(p2mfast_vtcr(p2m) & 0x3f, 64 - ipa_bits);
    CHECK_EQUAL(p2mfast_vttbr(p2m), UINT64_C(1) << 48 | (POOL_BASE_MFN + p2m->root_frame) << 12);
    CHECK_EQUAL(p2mfast_vttbr(p2m) & (root_bytes - 1), 0);
    /* The root and the levels below resolve the whole input: 12 + 9 a level + the root pages. */
    CHECK(root_bytes / 8 << (9 * (levels - 1)) >= UINT64_C(1) << (ipa_bits - 12));
}

static void test_round_trip(void)
{
    for (unsigned i = 0; i < sizeof(ipa_sizes) / sizeof(ipa_sizes[0]); i++) {
        struct p2mfast *p2m = pool_start(ipa_sizes[i]);
        uint64_t limit = UINT64_C(1) << (ipa_sizes[i] - 12);
        p2mfast_entry_t entry;

        check_facts(p2m, ipa_sizes[i]);
        check_hole(p2m, 0);
        check_hole(p2m, limit - 1);
        CHECK_EQUAL(p2mfast_lowest_mapped_gfn(p2m), P2MFAST_INVALID_GFN);
        CHECK_EQUAL(p2mfast_max_mapped_gfn(p2m), P2MFAST_INVALID_GFN);
        CHECK_EQUAL(pool_map(p2m, 1, 1, 0x7777, 0), 0);
        CHECK_EQUAL(pool_map(p2m, limit - 1, 1, 0x123456789, 0), 0);
        CHECK_EQUAL(pool_map(p2m, BLOCK - 1, 2, 0x555, 0), 0);
        CHECK_EQUAL(pool_map(p2m, limit / 2, BLOCK, 0x40000000, 0), 0);
        CHECK_EQUAL(pool_map(p2m, GIB, GIB, 0x80000000, 0), 0);
        check_mapped(p2m, 1, 1, 0x7777, 0);
        check_mapped(p2m, limit - 1, 1, 0x123456789, 0);
        check_mapped(p2m, BLOCK - 1, 2, 0x555, 0);
        check_mapped(p2m, limit / 2, BLOCK, 0x40000000, 9);
        check_mapped(p2m, GIB, GIB, 0x80000000, 18);
        check_hole(p2m, 0);
        check_hole(p2m, 2);
        check_hole(p2m, limit - 2);
        check_hole(p2m, limit / 2 + BLOCK);
        CHECK_EQUAL(p2mfast_get_entry(p2m, limit, &entry), P2MFAST_ERROR_RANGE);
        check_faults(p2m, limit);
        CHECK_EQUAL(p2mfast_lowest_mapped_gfn(p2m), 1);
        CHECK_EQUAL(p2mfast_max_mapped_gfn(p2m), limit - 1);
        CHECK_SOUND(p2m);

        CHECK_EQUAL(pool_unmap(p2m, 0, limit), 0);
        check_hole(p2m, 1);
        check_hole(p2m, limit - 1);
        check_hole(p2m, GIB);
        /* Tables that map 512 GiB stay, as in Xen: one each for the three places. */
        CHECK_EQUAL(pool.in_use, p2mfast_root_level(p2m) == 0 ? 3 : 0);
        CHECK_SOUND(p2m);
    }
}

/* Xen's rule (p2m_set_entry): at each step the largest block to which all that is left is
 * aligned. */
static void check_orders(uint64_t gfn, uint64_t nr, uint64_t mfn, unsigned flags)
{
    struct p2mfast *p2m = pool_start(40);
    unsigned most = flags & P2MFAST_MAX_ORDER_0 ? 0 : flags & P2MFAST_MAX_ORDER_9 ? 9 : 18;

    CHECK_EQUAL(pool_map(p2m, gfn, nr, mfn, flags), 0);
    while (nr) {
        uint64_t mask = gfn | mfn | nr;
        unsigned order = most;

        while (mask & ((UINT64_C(1) << order) - 1))
            order -= 9;
        check_mapped(p2m, gfn, UINT64_C(1) << order, mfn, order);
        gfn += UINT64_C(1) << order;
        mfn += UINT64_C(1) << order;
        nr -= UINT64_C(1) << order;
    }
    check_hole(p2m, gfn);
    CHECK_SOUND(p2m);
}

static void test_superpages_are_chosen(void)
{
    check_orders(0, BLOCK, 0, 0);
    check_orders(BLOCK, 3 * BLOCK, 0x100000, 0);
    check_orders(BLOCK, 3 * BLOCK, 0x100000, P2MFAST_MAX_ORDER_0);
    /* Pages up to the first aligned block; never blocks where the end is not aligned. */
    check_orders(BLOCK - 3, BLOCK + 3, 0x100000 - 3, 0);
    check_orders(BLOCK, BLOCK + 1, 0x100000, 0);
    check_orders(BLOCK, 2 * BLOCK, 0x100001, 0);
    /* Pages, then 2 MiB, then 1 GiB. */
    check_orders(GIB - BLOCK - 1, GIB + BLOCK + 1, 3 * GIB - BLOCK - 1, 0);
    check_orders(GIB - BLOCK, GIB + BLOCK, 3 * GIB - BLOCK, P2MFAST_MAX_ORDER_9);
    check_orders(GIB, 2 * GIB, 5 * GIB, 0);
    check_orders(GIB, GIB, 5 * GIB + BLOCK, 0);
}

/* What a type grants, as R 1, W 2, X 4, before access takes away. */
static unsigned granted(unsigned type)
{
    switch (type) {
    case P2MFAST_RAM_RW:
        return 7;
    case P2MFAST_RAM_RO:
        return 5;
    case P2MFAST_MAP_FOREIGN_RO:
    case P2MFAST_GRANT_MAP_RO:
    case P2MFAST_IOMMU_MAP_RO:
        return 1;
    default:
        return 3;
    }
}

static void test_rights(void)
{
    static const unsigned kept[P2MFAST_ACCESS_COUNT] = {0, 1, 2, 3, 4, 5, 6, 7, 5, 0, 1};
    struct p2mfast *p2m = pool_start(40);

    for (unsigned type = 1; type < P2MFAST_TYPE_COUNT; type++) {
        for (unsigned access = 0; access < P2MFAST_ACCESS_COUNT; access++) {
            unsigned rights = granted(type) & kept[access];
            p2mfast_entry_t entry;

            CHECK_EQUAL(p2mfast_set_entry(p2m, 7, 1, 9, type, access, 0), 0);
            CHECK_EQUAL(p2mfast_get_entry(p2m, 7, &entry), 0);
            CHECK_EQUAL(entry.type, type);
            for (unsigned kind = 1; kind < 8; kind++) {
                p2mfast_translation_t result;

                CHECK_EQUAL(p2mfast_translate(p2m, 7 << 12, kind, &result), 0);
                CHECK_EQUAL(result.fault,
                            kind & ~rights ? P2MFAST_FAULT_PERMISSION : P2MFAST_FAULT_NONE);
                CHECK_EQUAL(result.level, 3);
            }
        }
    }
    CHECK_SOUND(p2m);
}

/* ---- Shatter ---- */

static void test_shatter_2_mib(void)
{
    for (unsigned flags = 0; flags <= P2MFAST_ARMED; flags++) {
        struct p2mfast *p2m = pool_start(40);
        unsigned invalidations;
        p2mfast_stats_t stats;

        CHECK_EQUAL(pool_map(p2m, BLOCK, BLOCK, 0x100000, flags), 0);
        CHECK_EQUAL(pool_order(p2m, BLOCK), 9);
        invalidations = pool.calls.invalidate_tlb;
        CHECK_EQUAL(pool_map(p2m, BLOCK + 5, 1, 0x42, 0), 0);
        /* One for the block; one for the page in it, unless that was armed. */
        CHECK_EQUAL(pool.calls.invalidate_tlb - invalidations, flags ? 1 : 2);
        for (uint64_t i = 0; i < BLOCK; i++) {
            p2mfast_entry_t entry;

            CHECK_EQUAL(p2mfast_get_entry(p2m, BLOCK + i, &entry), 0);
            CHECK_EQUAL(entry.mfn, i == 5 ? 0x42 : 0x100000 + i);
            CHECK_EQUAL(entry.order, 0);
            CHECK_EQUAL(entry.valid, i == 5 || !flags);
            if (entry.valid)
                check_translates(p2m, BLOCK + i, entry.mfn, 3);
        }
        stats = pool_stats(p2m);
        CHECK_EQUAL(stats.shattered[2], 1);
        CHECK_EQUAL(stats.shattered[1], 0);
        CHECK_EQUAL(stats.mappings[2], 0);
        CHECK_EQUAL(stats.mappings[3], BLOCK);
        CHECK_EQUAL(stats.tables, 2);
        CHECK_SOUND(p2m);
    }
}

static void test_shatter_1_gib(void)
{
    struct p2mfast *p2m = pool_start(40);
    uint64_t page = GIB + 7 * BLOCK + 3;
    unsigned invalidations;
    p2mfast_stats_t stats;

    CHECK_EQUAL(pool_map(p2m, GIB, GIB, 0x40000000, 0), 0);
    invalidations = pool.calls.invalidate_tlb;
    CHECK_EQUAL(pool_unmap(p2m, page, 1), 0);
    /* Both levels are complete before the first is linked: the block, then the page. */
    CHECK_EQUAL(pool.calls.invalidate_tlb - invalidations, 2);
    check_hole(p2m, page);
    check_mapped(p2m, page - 3, 3, 0x40000000 + 7 * BLOCK, 0);
    check_mapped(p2m, page + 1, BLOCK - 4, 0x40000000 + 7 * BLOCK + 4, 0);
    check_mapped(p2m, GIB, BLOCK, 0x40000000, 9);
    check_mapped(p2m, 2 * GIB - BLOCK, BLOCK, 0x40000000 + GIB - BLOCK, 9);
    stats = pool_stats(p2m);
    CHECK_EQUAL(stats.shattered[1], 1);
    CHECK_EQUAL(stats.shattered[2], 1);
    CHECK_EQUAL(stats.mappings[1], 0);
    CHECK_EQUAL(stats.mappings[2], BLOCK - 1);
    CHECK_EQUAL(stats.mappings[3], BLOCK - 1);
    CHECK_SOUND(p2m);

    /* To 2 MiB only where no more is asked for. */
    CHECK_EQUAL(pool_map(p2m, GIB, GIB, 0x40000000, 0), 0);
    CHECK_EQUAL(pool.in_use, 0);
    CHECK_EQUAL(pool_unmap(p2m, GIB + 3 * BLOCK, 2 * BLOCK), 0);
    check_hole(p2m, GIB + 3 * BLOCK);
    check_hole(p2m, GIB + 5 * BLOCK - 1);
    check_mapped(p2m, GIB + 5 * BLOCK, BLOCK, 0x40000000 + 5 * BLOCK, 9);
    stats = pool_stats(p2m);
    CHECK_EQUAL(stats.shattered[1], 2);
    CHECK_EQUAL(stats.shattered[2], 1);
    CHECK_EQUAL(stats.tables, 1);
    CHECK_SOUND(p2m);
}

/* ---- Tables go ---- */

static void test_superpage_over_tables(void)
{
    struct p2mfast *p2m = pool_start(40);
    unsigned given;

    CHECK_EQUAL(pool_map(p2m, BLOCK, BLOCK, 0x30000, P2MFAST_MAX_ORDER_0), 0);
    CHECK_EQUAL(pool.in_use, 2);
    given = pool.calls.give;
    CHECK_EQUAL(pool_map(p2m, BLOCK, BLOCK, 0x100000, 0), 0);
    CHECK_EQUAL(pool.calls.give - given, 1);
    CHECK_EQUAL(pool.in_use, 1);
    check_mapped(p2m, BLOCK, BLOCK, 0x100000, 9);
    CHECK_SOUND(p2m);

    /* A whole subtree, some of it armed, some of it blocks. */
    CHECK_EQUAL(pool_map(p2m, 0, 3 * BLOCK, 0x30000, P2MFAST_MAX_ORDER_0), 0);
    CHECK_EQUAL(pool_map(p2m, 9 * BLOCK + 1, 1, 0x77, P2MFAST_ARMED), 0);
    CHECK_EQUAL(pool_map(p2m, 11 * BLOCK, BLOCK, 0x200000, P2MFAST_ARMED), 0);
    CHECK_EQUAL(pool.in_use, 5);
    CHECK_EQUAL(pool_map(p2m, 0, GIB, 0x40000000, 0), 0);
    CHECK_EQUAL(pool.in_use, 0);
    check_mapped(p2m, 0, GIB, 0x40000000, 18);
    CHECK_SOUND(p2m);

    /* The same below a root that is armed: no walk can have seen the tables. */
    CHECK_EQUAL(pool_map(p2m, GIB, 2 * BLOCK, 0x30000, P2MFAST_MAX_ORDER_0), 0);
    CHECK_EQUAL(p2mfast_invalidate_root(p2m), 0);
    CHECK_EQUAL(pool_map(p2m, GIB, GIB, 0x80000000, 0), 0);
    CHECK_EQUAL(pool.in_use, 0);
    check_mapped(p2m, GIB, GIB, 0x80000000, 18);
    CHECK_SOUND(p2m);
}

static void test_removal_frees_tables(void)
{
    struct p2mfast *p2m = pool_start(48);
    unsigned given;

    CHECK_EQUAL(pool_map(p2m, 0, 4 * BLOCK, 0x30000, P2MFAST_MAX_ORDER_0), 0);
    CHECK_EQUAL(pool.in_use, 6);
    CHECK_EQUAL(pool_unmap(p2m, BLOCK, 2 * BLOCK), 0);
    CHECK_EQUAL(pool.in_use, 4);
    check_mapped(p2m, 0, BLOCK, 0x30000, 0);
    check_mapped(p2m, 3 * BLOCK, BLOCK, 0x30000 + 3 * BLOCK, 0);
    check_hole(p2m, BLOCK);
    check_hole(p2m, 3 * BLOCK - 1);
    CHECK_SOUND(p2m);
    /* Pages of a table leave the table; what is not there costs nothing. */
    CHECK_EQUAL(pool_unmap(p2m, 10, 20), 0);
    CHECK_EQUAL(pool.in_use, 4);
    check_hole(p2m, 10);
    check_mapped(p2m, 30, BLOCK - 30, 0x30000 + 30, 0);
    given = pool.calls.give;
    CHECK_EQUAL(pool_unmap(p2m, 5 * GIB, GIB), 0);
    CHECK_EQUAL(pool_unmap(p2m, 7 * GIB + 1, 3), 0);
    CHECK_EQUAL(pool.calls.give, given);
    CHECK_SOUND(p2m);
    CHECK_EQUAL(pool_unmap(p2m, 0, GIB), 0);
    CHECK_EQUAL(pool.in_use, 1);
    CHECK_SOUND(p2m);
}

static void test_remove_mapping(void)
{
    struct p2mfast *p2m = pool_start(40);

    CHECK_EQUAL(pool_map(p2m, 0, 2 * BLOCK, 0x100000, 0), 0);
    CHECK_EQUAL(p2mfast_set_entry(p2m, 2 * BLOCK + 1, 1, 0x77, P2MFAST_MMIO_DIRECT_DEV,
                                  P2MFAST_ACCESS_RW, 0),
                0);
    pool_snapshot(p2m);
    CHECK_EQUAL(p2mfast_remove_mapping(p2m, 3, 5, 0x100004), P2MFAST_ERROR_MISMATCH);
    CHECK_EQUAL(p2mfast_remove_mapping(p2m, BLOCK - 1, 2, 0x1005ff), P2MFAST_ERROR_MISMATCH);
    CHECK_UNCHANGED(p2m);
    /* The middle of one block to the middle of the next. */
    CHECK_EQUAL(p2mfast_remove_mapping(p2m, BLOCK - 1, 2, 0x1001ff), 0);
    check_hole(p2m, BLOCK - 1);
    check_hole(p2m, BLOCK);
    check_mapped(p2m, 0, BLOCK - 1, 0x100000, 0);
    check_mapped(p2m, BLOCK + 1, BLOCK - 1, 0x100000 + BLOCK + 1, 0);
    /* What is not RAM is not compared. */
    CHECK_EQUAL(p2mfast_remove_mapping(p2m, 2 * BLOCK, 2, 0x5), 0);
    check_hole(p2m, 2 * BLOCK + 1);
    CHECK_SOUND(p2m);
}

/* The order of a hole says how far it goes. */
static void test_orders_of_holes(void)
{
    struct p2mfast *p2m = pool_start(48);

    CHECK_EQUAL(pool_map(p2m, 5, 1, 9, 0), 0);
    CHECK_EQUAL(pool_map(p2m, 3 * BLOCK, 1, 9, 0), 0);
    CHECK_EQUAL(pool_map(p2m, 2 * GIB, 1, 9, 0), 0);
    CHECK_EQUAL(pool_order(p2m, 6), 0);
    CHECK_EQUAL(pool_order(p2m, BLOCK), 9);
    CHECK_EQUAL(pool_order(p2m, GIB), 18);
    /* Above the highest mapped GFN. */
    CHECK_EQUAL(pool_order(p2m, 2 * GIB + 1), 0);
    CHECK_EQUAL(pool_order(p2m, 2 * GIB + BLOCK), 9);
    CHECK_EQUAL(pool_order(p2m, 3 * GIB), 18);
    CHECK_EQUAL(pool_order(p2m, (uint64_t)GIB * BLOCK), 27);
}

void core_map_tests(void)
{
    RUN(test_round_trip);
    RUN(test_superpages_are_chosen);
    RUN(test_rights);
    RUN(test_shatter_2_mib);
    RUN(test_shatter_1_gib);
    RUN(test_superpage_over_tables);
    RUN(test_removal_frees_tables);
    RUN(test_remove_mapping);
    RUN(test_orders_of_holes);
}
