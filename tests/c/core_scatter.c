/*
 * set_entries: single pages in any order, all or nothing.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "core_tests.h"
#include "pool.h"

#define BLOCK 512u
#define GIB (BLOCK * BLOCK)
#define NONE P2MFAST_INVALID_MFN

static int set_entries(struct p2mfast *p2m, const uint64_t *gfns, const uint64_t *mfns, size_t n)
{
    return p2mfast_set_entries(p2m, gfns, mfns, n, P2MFAST_RAM_RW, P2MFAST_ACCESS_RWX, 0);
}

/* Scattered over 16 tables, with duplicates and removals, against an array of the test's own. */
static void test_last_one_wins(void)
{
    enum { SPAN = 16 * 512, N = 2000 };
    static uint64_t gfns[N];
    static uint64_t mfns[N];
    static uint64_t want[SPAN];
    struct p2mfast *p2m = pool_start(40);
    uint64_t seed = 1;
    uint64_t present = 0;

    /* From 1 GiB - 16 MiB on, so that two tables of level 2 take part. */
    for (unsigned i = 0; i < SPAN; i++)
        want[i] = NONE;
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < N; i++) {
            uint64_t at = harness_below(&seed, 4) ? harness_below(&seed, SPAN) : i % 7 * 600;

            gfns[i] = GIB - SPAN / 2 + at;
            mfns[i] = harness_below(&seed, 3) ? harness_below(&seed, UINT64_C(1) << 36) : NONE;
            want[at] = mfns[i];
        }
        CHECK_EQUAL(set_entries(p2m, gfns, mfns, N), 0);
        CHECK_SOUND(p2m);
        present = 0;
        for (unsigned i = 0; i < SPAN; i++) {
            CHECK_EQUAL(pool_mfn(p2m, GIB - SPAN / 2 + i), want[i]);
            present += want[i] != NONE;
        }
        CHECK_EQUAL(pool_stats(p2m).mappings[3], present);
    }
    CHECK(pool.in_use == 18);
}

static void test_nothing_to_do(void)
{
    struct p2mfast *p2m = pool_start(40);
    uint64_t gfns[] = {0, GIB};
    uint64_t mfns[] = {NONE, NONE};

    pool_snapshot(p2m);
    CHECK_EQUAL(set_entries(p2m, NULL, NULL, 0), 0);
    CHECK_EQUAL(set_entries(p2m, gfns, mfns, 2), 0);
    CHECK_UNCHANGED(p2m);
}

static void test_superpages_are_split(void)
{
    struct p2mfast *p2m = pool_start(40);
    uint64_t gfns[] = {GIB + 5, 7, GIB + BLOCK + 1, 7};
    uint64_t mfns[] = {NONE, 0x33, 0x44, NONE};
    p2mfast_stats_t stats;

    CHECK_EQUAL(pool_map(p2m, 0, BLOCK, 0x100000, 0), 0);
    CHECK_EQUAL(pool_map(p2m, GIB, GIB, 0x200000, 0), 0);
    CHECK_EQUAL(set_entries(p2m, gfns, mfns, 4), 0);
    CHECK_EQUAL(pool_mfn(p2m, GIB + 5), NONE);
    CHECK_EQUAL(pool_mfn(p2m, GIB + 4), 0x200004);
    CHECK_EQUAL(pool_mfn(p2m, 7), NONE);
    CHECK_EQUAL(pool_mfn(p2m, 8), 0x100008);
    CHECK_EQUAL(pool_mfn(p2m, GIB + BLOCK + 1), 0x44);
    CHECK_EQUAL(pool_order(p2m, GIB + 2 * BLOCK), 9);
    stats = pool_stats(p2m);
    CHECK_EQUAL(stats.shattered[1], 1);
    CHECK_EQUAL(stats.shattered[2], 3);
    CHECK_EQUAL(stats.tables, 5);
    CHECK_SOUND(p2m);
}

/* ---- Quota ---- */

/* Unsorted: two leaf tables in turn, in two tables of level 2. Without an order each change of
 * table may cost one. */
static const uint64_t turn_gfns[] = {0, BLOCK, 1, BLOCK + 1, GIB, 2, GIB + 1, BLOCK + 2};
static const uint64_t turn_mfns[] = {10, 11, 12, 13, 14, 15, 16, 17};
/* 0: 2; BLOCK 1; 1: 1; BLOCK + 1: 1; GIB: 2; 2: 2; GIB + 1: 2; BLOCK + 2: 2 */
#define TURN_UPPER_BOUND 13
#define TURN_EXACT 5
#define TURNS (sizeof(turn_gfns) / sizeof(turn_gfns[0]))

static struct p2mfast *start_with(uint64_t frames, uint64_t max_tables, bool scratch)
{
    p2mfast_platform_t platform = pool_platform(frames);
    p2mfast_config_t config = pool_config(40);

    config.max_tables = max_tables;
    if (!scratch) {
        platform.scratch = NULL;
        platform.release_scratch = NULL;
    }
    return pool_init(&platform, &config);
}

static void check_turns(struct p2mfast *p2m, bool fits)
{
    pool_snapshot(p2m);
    CHECK_EQUAL(set_entries(p2m, turn_gfns, turn_mfns, TURNS), fits ? 0 : P2MFAST_ERROR_TABLES);
    if (!fits) {
        CHECK_UNCHANGED(p2m);
        return;
    }
    for (unsigned i = 0; i < TURNS; i++)
        CHECK_EQUAL(pool_mfn(p2m, turn_gfns[i]), turn_mfns[i]);
    CHECK_EQUAL(pool.in_use, TURN_EXACT);
    CHECK_SOUND(p2m);
    /* All tables are there now: nothing more is needed. */
    CHECK_EQUAL(set_entries(p2m, turn_gfns, turn_mfns, TURNS), 0);
}

static void test_quota_just_suffices(void)
{
    check_turns(start_with(POOL_FRAMES, TURN_EXACT, true), true);
    CHECK(pool.calls.scratch == 1 && pool.calls.release_scratch == 1);
    check_turns(start_with(TURN_EXACT + 2, P2MFAST_UNLIMITED, true), true);
    check_turns(start_with(POOL_FRAMES, TURN_EXACT - 1, true), false);
    CHECK(pool.calls.scratch == 1 && pool.calls.release_scratch == 1);
    check_turns(start_with(TURN_EXACT + 1, P2MFAST_UNLIMITED, true), false);
    /* No need to count where the bound fits. */
    check_turns(start_with(POOL_FRAMES, TURN_UPPER_BOUND, true), true);
    CHECK_EQUAL(pool.calls.scratch, 0);
}

static void test_quota_without_scratch(void)
{
    struct p2mfast *p2m;

    check_turns(start_with(POOL_FRAMES, TURN_UPPER_BOUND, false), true);
    check_turns(start_with(POOL_FRAMES, TURN_UPPER_BOUND - 1, false), false);
    /* Sorted, the bound is exact. */
    p2m = start_with(POOL_FRAMES, 3, false);
    CHECK_EQUAL(
        set_entries(p2m, (const uint64_t[]){0, 1, BLOCK - 1, BLOCK, BLOCK + 9}, turn_mfns, 5), 0);
    CHECK_SOUND(p2m);
    /* No memory to count in. */
    p2m = start_with(POOL_FRAMES, TURN_UPPER_BOUND - 1, true);
    pool.refuse_scratch = true;
    pool_snapshot(p2m);
    CHECK_EQUAL(set_entries(p2m, turn_gfns, turn_mfns, TURNS), P2MFAST_ERROR_MEMORY);
    CHECK_UNCHANGED(p2m);
    CHECK_EQUAL(pool.calls.release_scratch, 0);
}

/* A removal takes a table where it splits a superpage, and none in a hole. */
static void test_quota_of_removals(void)
{
    const uint64_t gfns[] = {5 * BLOCK, 1, BLOCK + 1, 2, BLOCK + 2, 7 * GIB, 3};
    const uint64_t mfns[] = {NONE, NONE, NONE, NONE, NONE, NONE, NONE};

    for (uint64_t max_tables = 2; max_tables < 5; max_tables++) {
        struct p2mfast *p2m = start_with(POOL_FRAMES, max_tables, true);

        CHECK_EQUAL(pool_map(p2m, 0, 2 * BLOCK, 0x100000, 0), 0);
        pool_snapshot(p2m);
        if (max_tables < 3) {
            CHECK_EQUAL(set_entries(p2m, gfns, mfns, 7), P2MFAST_ERROR_TABLES);
            CHECK_UNCHANGED(p2m);
        } else {
            CHECK_EQUAL(set_entries(p2m, gfns, mfns, 7), 0);
            CHECK_EQUAL(pool_stats(p2m).mappings[3], 2 * BLOCK - 5);
            CHECK_EQUAL(pool_mfn(p2m, BLOCK + 2), NONE);
            CHECK_EQUAL(pool_mfn(p2m, BLOCK + 3), 0x100000 + BLOCK + 3);
        }
        CHECK_SOUND(p2m);
    }
}

/* Exact by brute force: the least quota that lets a random batch through is what it then uses. */
static void test_exact_need(void)
{
    uint64_t seed = 2;

    for (unsigned round = 0; round < 60; round++) {
        uint64_t gfns[40];
        uint64_t mfns[40];
        uint64_t need = 0;
        struct p2mfast *p2m;

        for (unsigned i = 0; i < 40; i++) {
            gfns[i] = harness_below(&seed, 4) * GIB + harness_below(&seed, 6) * BLOCK +
                      harness_below(&seed, 3);
            mfns[i] = 0x1000 + i;
        }
        for (unsigned quota = 0; quota < 2; quota++) {
            /* Below 1 GiB there is a block, above 2 GiB a table: some ways break off later. */
            p2m = start_with(POOL_FRAMES, quota ? need : P2MFAST_UNLIMITED, true);
            CHECK_EQUAL(pool_map(p2m, 0, GIB, 0x400000, 0), 0);
            CHECK_EQUAL(pool_map(p2m, 2 * GIB, 2, 0x70, 0), 0);
            CHECK_EQUAL(set_entries(p2m, gfns, mfns, 40), 0);
            CHECK_SOUND(p2m);
            need = pool.in_use;
        }
        p2m = start_with(POOL_FRAMES, need - 1, true);
        CHECK_EQUAL(pool_map(p2m, 0, GIB, 0x400000, 0), 0);
        CHECK_EQUAL(pool_map(p2m, 2 * GIB, 2, 0x70, 0), 0);
        pool_snapshot(p2m);
        CHECK_EQUAL(set_entries(p2m, gfns, mfns, 40), P2MFAST_ERROR_TABLES);
        CHECK_UNCHANGED(p2m);
    }
}

void core_scatter_tests(void)
{
    RUN(test_last_one_wins);
    RUN(test_nothing_to_do);
    RUN(test_superpages_are_split);
    RUN(test_quota_just_suffices);
    RUN(test_quota_without_scratch);
    RUN(test_quota_of_removals);
    RUN(test_exact_need);
}
