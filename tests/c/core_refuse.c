/*
 * What is refused has changed nothing, byte for byte; what is optional may be missing.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "core_tests.h"
#include "pool.h"

#define BLOCK 512u
#define GIB (BLOCK * BLOCK)

static struct p2mfast *start_with(uint64_t frames, uint64_t max_tables)
{
    p2mfast_platform_t platform = pool_platform(frames);
    p2mfast_config_t config = pool_config(40);

    config.max_tables = max_tables;
    return pool_init(&platform, &config);
}

static void test_wrong_arguments(void)
{
    struct p2mfast *p2m = pool_start(40);
    const uint64_t limit = UINT64_C(1) << 28;
    uint64_t gfn = limit;
    uint64_t mfn = 1;
    uint8_t resolved = 0;
    p2mfast_translation_t result;

    CHECK_EQUAL(pool_map(p2m, 0, BLOCK, 0x100000, 0), 0);
    pool_snapshot(p2m);
    CHECK_EQUAL(pool_map(p2m, 0, 0, 0, 0), P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(pool_map(p2m, limit, 1, 0, 0), P2MFAST_ERROR_RANGE);
    CHECK_EQUAL(pool_map(p2m, limit - 1, 2, 0, 0), P2MFAST_ERROR_RANGE);
    CHECK_EQUAL(pool_map(p2m, 1, UINT64_MAX, 0, 0), P2MFAST_ERROR_RANGE);
    CHECK_EQUAL(pool_map(p2m, 0, 1, UINT64_C(1) << 36, 0), P2MFAST_ERROR_RANGE);
    CHECK_EQUAL(pool_map(p2m, 0, 2, (UINT64_C(1) << 36) - 1, 0), P2MFAST_ERROR_RANGE);
    CHECK_EQUAL(pool_map(p2m, 0, 1, 0, 8), P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(p2mfast_set_entry(p2m, 0, 1, 0, P2MFAST_INVALID, 7, 0), P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(p2mfast_set_entry(p2m, 0, 1, 0, P2MFAST_TYPE_COUNT, 7, 0), P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(p2mfast_set_entry(p2m, 0, 1, 0, 1, P2MFAST_ACCESS_COUNT, 0),
                P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(p2mfast_remove_mapping(p2m, limit, 1, 0), P2MFAST_ERROR_RANGE);
    CHECK_EQUAL(p2mfast_set_entries(p2m, &gfn, &mfn, 1, 1, 7, 0), P2MFAST_ERROR_RANGE);
    CHECK_EQUAL(p2mfast_set_entries(p2m, &mfn, &mfn, 1, 1, 7, 8), P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(p2mfast_resolve_translation_fault(p2m, limit, P2MFAST_DEPTH_PATH, 0),
                P2MFAST_ERROR_RANGE);
    CHECK_EQUAL(p2mfast_resolve_translation_fault(p2m, 0, 2, 0), P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(p2mfast_resolve_translation_fault(p2m, 0, P2MFAST_DEPTH_PATH, 19),
                P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(p2mfast_resolve_translation_faults(p2m, &gfn, 1, 0, 0, &resolved),
                P2MFAST_ERROR_RANGE);
    CHECK_EQUAL(p2mfast_translate(p2m, 0, 0, &result), P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(p2mfast_translate(p2m, 0, 8, &result), P2MFAST_ERROR_ARGUMENT);
    CHECK_UNCHANGED(p2m);
    CHECK_SOUND(p2m);
}

static void test_wrong_configurations(void)
{
    static struct p2mfast refused;
    p2mfast_platform_t platform = pool_platform(POOL_FRAMES);
    p2mfast_config_t config = pool_config(39);

    CHECK_EQUAL(p2m_init(&refused, &platform, &config), P2MFAST_ERROR_IPA_BITS);
    config = pool_config(40);
    config.pa_bits = 41;
    CHECK_EQUAL(p2m_init(&refused, &platform, &config), P2MFAST_ERROR_PA_BITS);
    config = pool_config(40);
    config.vmid = 0x10000;
    CHECK_EQUAL(p2m_init(&refused, &platform, &config), P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(pool.calls.take_roots, 0);
    platform = pool_platform(3);
    config = pool_config(40);
    CHECK_EQUAL(p2m_init(&refused, &platform, &config), P2MFAST_ERROR_TABLES);
}

/* A table of level 2 and one of level 3 are there, and one more may come. */
static void check_one_table_left(struct p2mfast *p2m)
{
    CHECK_EQUAL(pool_map(p2m, 3 * BLOCK, 3, 0x70, 0), 0);
    CHECK_EQUAL(pool_map(p2m, 7 * BLOCK, BLOCK, 0x100000, 0), 0);
    pool_snapshot(p2m);
    /* Over two tables' ends, into a 1 GiB of its own, over the whole space. */
    CHECK_EQUAL(pool_map(p2m, BLOCK - 1, 1 + BLOCK + 1, 0x70, 0), P2MFAST_ERROR_TABLES);
    CHECK_EQUAL(pool_map(p2m, GIB, 1, 0x70, 0), P2MFAST_ERROR_TABLES);
    CHECK_EQUAL(pool_map(p2m, 0, (UINT64_C(1) << 28) - 1, 0, 0), P2MFAST_ERROR_TABLES);
    CHECK_UNCHANGED(p2m);
    CHECK_EQUAL(pool_map(p2m, BLOCK - 2, 2, 0x70, 0), 0);
    CHECK_SOUND(p2m);
    pool_snapshot(p2m);
    /* Now there is none: blocks cannot be split, not even for a removal. */
    CHECK_EQUAL(pool_map(p2m, 7 * BLOCK + 7, 1, 0x70, 0), P2MFAST_ERROR_TABLES);
    CHECK_EQUAL(pool_unmap(p2m, 7 * BLOCK + 7, 1), P2MFAST_ERROR_TABLES);
    CHECK_EQUAL(p2mfast_remove_mapping(p2m, 7 * BLOCK + 7, 1, 0x100007), P2MFAST_ERROR_TABLES);
    /* What comes before it in the range does not happen. */
    CHECK_EQUAL(pool_unmap(p2m, 3 * BLOCK, 4 * BLOCK + 1), P2MFAST_ERROR_TABLES);
    /* No credit for the table that the block would free. */
    CHECK_EQUAL(pool_map(p2m, 3 * BLOCK - 1, 1 + BLOCK, 0x200000 - 1, 0), P2MFAST_ERROR_TABLES);
    CHECK_UNCHANGED(p2m);
    /* What needs no table still goes. */
    CHECK_EQUAL(pool_unmap(p2m, 7 * BLOCK, BLOCK), 0);
    CHECK_EQUAL(pool_map(p2m, 2 * GIB, 2 * GIB, 0x400000, 0), 0);
    CHECK_EQUAL(pool_map(p2m, 3 * BLOCK, BLOCK, 0x200000, 0), 0);
    CHECK_EQUAL(pool_map(p2m, 9 * BLOCK, 1, 0x70, 0), 0);
    CHECK_SOUND(p2m);
}

static void test_quota(void)
{
    check_one_table_left(start_with(POOL_FRAMES, 3));
}

static void test_small_pool(void)
{
    /* Two roots and three tables. */
    check_one_table_left(start_with(5, P2MFAST_UNLIMITED));
}

/* A block at 0, two tables at 1 GiB, nothing at 2 GiB. */
static struct p2mfast *start_mixed(uint64_t max_tables)
{
    struct p2mfast *p2m = start_with(POOL_FRAMES, max_tables);

    CHECK_EQUAL(pool_map(p2m, 0, GIB, 0x400000, 0), 0);
    CHECK_EQUAL(pool_map(p2m, GIB + BLOCK, 2, 0x70, 0), 0);
    return p2m;
}

/* Neither one table more is asked for than is then used, nor one less. */
static void test_exact_need(void)
{
    uint64_t seed = 8;

    for (unsigned round = 0; round < 100; round++) {
        uint64_t gfn = harness_below(&seed, 3) * GIB + harness_below(&seed, 4 * BLOCK);
        uint64_t nr = 1 + harness_below(&seed, 5 * BLOCK);
        bool remove = harness_below(&seed, 4) == 0;
        uint64_t mfn = remove ? P2MFAST_INVALID_MFN : 0x10001;
        struct p2mfast *p2m = start_mixed(P2MFAST_UNLIMITED);
        uint64_t before = pool.in_use;
        uint64_t need;

        /* From a GiB's end into the next one, too. */
        gfn = round % 3 ? gfn : (1 + round % 2) * GIB - 1 - round;
        CHECK_EQUAL(pool_map(p2m, gfn, nr, mfn, P2MFAST_MAX_ORDER_0), 0);
        need = pool.calls.take;
        if (need == before)
            continue;
        p2m = start_mixed(need);
        CHECK_EQUAL(pool_map(p2m, gfn, nr, mfn, P2MFAST_MAX_ORDER_0), 0);
        CHECK_SOUND(p2m);
        p2m = start_mixed(need - 1);
        pool_snapshot(p2m);
        CHECK_EQUAL(pool_map(p2m, gfn, nr, mfn, P2MFAST_MAX_ORDER_0), P2MFAST_ERROR_TABLES);
        CHECK_UNCHANGED(p2m);
    }
}

static void test_quota_of_none(void)
{
    struct p2mfast *p2m = start_with(POOL_FRAMES, 0);

    pool_snapshot(p2m);
    CHECK_EQUAL(pool_map(p2m, 0, 1, 0, 0), P2MFAST_ERROR_TABLES);
    CHECK_EQUAL(pool_map(p2m, 0, BLOCK, 0, 0), P2MFAST_ERROR_TABLES);
    CHECK_UNCHANGED(p2m);
    CHECK_EQUAL(p2mfast_lowest_mapped_gfn(p2m), P2MFAST_INVALID_GFN);
    CHECK_EQUAL(pool_map(p2m, GIB, GIB, 0, 0), 0);
    CHECK_SOUND(p2m);
}

static void test_platform_refuses_tables(void)
{
    struct p2mfast *p2m = pool_start(48);
    unsigned reserves;

    CHECK_EQUAL(pool_map(p2m, 0, BLOCK, 0x100000, 0), 0);
    pool_snapshot(p2m);
    pool.refuse_tables = true;
    CHECK_EQUAL(pool_map(p2m, 5, 1, 0, 0), P2MFAST_ERROR_TABLES);
    CHECK_EQUAL(pool_map(p2m, BLOCK, 1, 0, 0), P2MFAST_ERROR_TABLES);
    CHECK_EQUAL(pool_unmap(p2m, 5, 1), P2MFAST_ERROR_TABLES);
    CHECK_EQUAL(p2mfast_remove_mapping(p2m, 5, 1, 0x100005), P2MFAST_ERROR_TABLES);
    CHECK_UNCHANGED(p2m);
    /* Who needs nothing is not refused. */
    reserves = pool.calls.reserve;
    CHECK_EQUAL(pool_map(p2m, BLOCK, BLOCK, 0x200000, 0), 0);
    CHECK_EQUAL(pool_unmap(p2m, 0, BLOCK), 0);
    CHECK_EQUAL(pool.calls.reserve, reserves);
    CHECK_SOUND(p2m);
}

static void test_platform_refuses_removals(void)
{
    struct p2mfast *p2m = pool_start(40);
    uint64_t gfns[] = {3, BLOCK + 3};
    uint64_t mfns[] = {P2MFAST_INVALID_MFN, 8};

    CHECK_EQUAL(p2mfast_set_entry(p2m, 0, BLOCK + 20, 0x100000, P2MFAST_MAP_FOREIGN_RW, 7, 0), 0);
    pool_snapshot(p2m);
    pool.refuse_removed = true;
    CHECK_EQUAL(pool_unmap(p2m, 0, 1), P2MFAST_ERROR_MEMORY);
    CHECK_EQUAL(pool_unmap(p2m, 0, BLOCK), P2MFAST_ERROR_MEMORY);
    CHECK_EQUAL(pool_map(p2m, 0, BLOCK, 0x200000, 0), P2MFAST_ERROR_MEMORY);
    CHECK_EQUAL(p2mfast_remove_mapping(p2m, 0, 1, 0x100000), P2MFAST_ERROR_MEMORY);
    CHECK_EQUAL(p2mfast_set_entries(p2m, gfns, mfns, 2, P2MFAST_RAM_RW, 7, 0),
                P2MFAST_ERROR_MEMORY);
    CHECK_EQUAL(p2mfast_relinquish(p2m, 1000), P2MFAST_ERROR_MEMORY);
    CHECK_UNCHANGED(p2m);
    pool.refuse_removed = false;
    CHECK_EQUAL(pool_unmap(p2m, 0, 1), 0);
    CHECK_SOUND(p2m);
}

/* ---- Optional calls ---- */

/* A little of everything; at the end the P2M is empty. */
static void exercise(struct p2mfast *p2m)
{
    uint64_t gfns[] = {5 * BLOCK, 3, 5 * BLOCK, 3};
    uint64_t mfns[] = {1, 2, 3, P2MFAST_INVALID_MFN};
    p2mfast_run_t runs[8];
    p2mfast_flush_t flush = {0, 0, 0, 0, 0};
    uint64_t cursor = 0;
    size_t n;

    CHECK_EQUAL(pool_map(p2m, 0, 3 * BLOCK, 0x100000, 0), 0);
    CHECK_EQUAL(p2mfast_set_entry(p2m, GIB, BLOCK, 0x200000, P2MFAST_MAP_FOREIGN_RO, 7, 0), 0);
    CHECK_EQUAL(p2mfast_set_entries(p2m, gfns, mfns, 4, P2MFAST_RAM_RW, 7, 0), 0);
    CHECK_SOUND(p2m);
    CHECK_EQUAL(pool_mfn(p2m, 3), P2MFAST_INVALID_MFN);
    CHECK_EQUAL(pool_mfn(p2m, 5 * BLOCK), 3);
    CHECK_EQUAL(pool_unmap(p2m, GIB + 5, 2), 0);
    CHECK_EQUAL(pool_map(p2m, 0, BLOCK, 0x300000, 0), 0);
    CHECK_SOUND(p2m);
    CHECK_EQUAL(p2mfast_harvest(p2m, &cursor, runs, 8, &n), 0);
    CHECK_EQUAL(n, 5);
    CHECK_EQUAL(p2mfast_resolve_translation_fault(p2m, 7, P2MFAST_DEPTH_PATH, 0), 1);
    CHECK_EQUAL(p2mfast_cache_flush_range(p2m, &flush, UINT64_MAX >> 12, P2MFAST_SKIP_PATH, 100000,
                                          runs, 8, &n),
                0);
    CHECK_EQUAL(flush.pages, BLOCK);
    CHECK_EQUAL(p2mfast_invalidate_root(p2m), 0);
    CHECK(!pool_reachable(p2m, 7));
    CHECK_EQUAL(p2mfast_resolve_translation_fault(p2m, 7, P2MFAST_DEPTH_LEVEL, 0), 1);
    CHECK_SOUND(p2m);
    CHECK_EQUAL(p2mfast_relinquish(p2m, UINT64_MAX), 0);
    CHECK_SOUND(p2m);
    CHECK_EQUAL(pool_stats(p2m).mappings[2] + pool_stats(p2m).mappings[3], 0);
    CHECK_EQUAL(pool_unmap(p2m, 0, 2 * GIB), 0);
    CHECK_EQUAL(pool.in_use, 0);
}

/* Bit by bit: which optional calls are there. */
static void test_optional_calls(void)
{
    for (unsigned present = 0; present < 64; present++) {
        p2mfast_platform_t platform = pool_platform(POOL_FRAMES);
        p2mfast_config_t config = pool_config(40);

        if (!(present & 1))
            platform.barrier = NULL;
        if (!(present & 2))
            platform.invalidate_tlb = NULL;
        if (!(present & 4))
            platform.reserve_removed = NULL;
        if (!(present & 8))
            platform.mapping_removed = NULL;
        if (!(present & 16))
            platform.lock = platform.unlock = NULL;
        if (!(present & 32)) {
            platform.scratch = NULL;
            platform.release_scratch = NULL;
        }
        exercise(pool_init(&platform, &config));
        CHECK_EQUAL(pool.calls.barrier > 0, present & 1);
        CHECK_EQUAL(pool.calls.invalidate_tlb > 0, (present & 2) / 2);
        CHECK_EQUAL(pool.calls.reserve_removed > 0, (present & 4) / 4);
        CHECK_EQUAL(pool.calls.mapping_removed > 0, (present & 8) / 8);
        CHECK_EQUAL(pool.calls.lock > 0, (present & 16) / 16);
    }
}

void core_refuse_tests(void)
{
    RUN(test_wrong_arguments);
    RUN(test_wrong_configurations);
    RUN(test_quota);
    RUN(test_small_pool);
    RUN(test_exact_need);
    RUN(test_quota_of_none);
    RUN(test_platform_refuses_tables);
    RUN(test_platform_refuses_removals);
    RUN(test_optional_calls);
}
