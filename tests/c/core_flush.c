/*
 * The range cache flush and relinquish: preempted anywhere, they do everything once.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "core_tests.h"
#include "pool.h"

#include <string.h>

#define BLOCK 512u
#define GIB (BLOCK * BLOCK)

/* ---- Flush ---- */

#define SPAN (5 * BLOCK)

/* Everything that a flush treats in a way of its own, in five 2 MiB regions. */
static struct p2mfast *populate(void)
{
    struct p2mfast *p2m = pool_start(40);

    /* Pages of RAM around holes, devices, armed pages. */
    CHECK_EQUAL(pool_map(p2m, 3, 200, 0x30000, 0), 0);
    CHECK_EQUAL(pool_map(p2m, 210, 20, 0x40000, P2MFAST_ARMED), 0);
    CHECK_EQUAL(p2mfast_set_entry(p2m, 230, 9, 0x77, P2MFAST_MMIO_DIRECT_DEV, 7, 0), 0);
    CHECK_EQUAL(p2mfast_set_entry(p2m, 239, 5, 0x50000, P2MFAST_GRANT_MAP_RO, 7, 0), 0);
    CHECK_EQUAL(p2mfast_set_entry(p2m, 244, 5, 0x60000, P2MFAST_MAP_FOREIGN_RW, 7, 0), 0);
    CHECK_EQUAL(p2mfast_set_entry(p2m, 250, 5, 0x60006, P2MFAST_IOMMU_MAP_RW, 7, 0), 0);
    /* A hole; a block of RAM that goes on in pages; a block of a device, and pages armed by their
     * table. */
    CHECK_EQUAL(pool_map(p2m, 2 * BLOCK, BLOCK + 30, 0x100000, 0), 0);
    CHECK_EQUAL(pool_map(p2m, 2 * BLOCK, BLOCK, 0x100000, 0), 0);
    CHECK_EQUAL(pool_map(p2m, 4 * BLOCK, 40, 0x70000, 0), 0);
    CHECK_EQUAL(pool_order(p2m, 2 * BLOCK), 9);
    CHECK_EQUAL(p2mfast_set_entry(p2m, GIB, BLOCK, 0x200000, P2MFAST_MMIO_DIRECT_C, 7, 0), 0);
    CHECK_EQUAL(pool_map(p2m, GIB + BLOCK, BLOCK, 0x300000, P2MFAST_ARMED), 0);
    /* A flush changes nothing (that is checked): the TLB has nothing to say here. */
    pool_stop_watching();
    *pool_word(p2m, 2, 4 * BLOCK) &= ~UINT64_C(1);
    CHECK_SOUND(p2m);
    return p2m;
}

static bool is_ram(unsigned type)
{
    return type == P2MFAST_RAM_RW || type == P2MFAST_GRANT_MAP_RO || type == P2MFAST_MAP_FOREIGN_RW;
}

static bool is_to_be_cleaned(const struct p2mfast *p2m, uint64_t gfn, unsigned skip)
{
    p2mfast_entry_t entry;

    CHECK_EQUAL(p2mfast_get_entry(p2m, gfn, &entry), 0);
    return is_ram(entry.type) && (skip == P2MFAST_SKIP_NONE ||
                                  (skip == P2MFAST_SKIP_LEAF ? entry.valid : entry.reachable));
}

static uint8_t cleaned[SPAN];

static void clean(const struct p2mfast *p2m, const p2mfast_run_t *run)
{
    for (uint64_t i = 0; i < run->nr; i++) {
        CHECK_EQUAL(run->mfn + i, pool_mfn(p2m, run->gfn + i));
        if (CHECK(run->gfn + i < SPAN))
            cleaned[run->gfn + i]++;
    }
}

/* What cleaning these pages on the way over `passed` of them can have cost at the most. */
static uint64_t most_work(uint64_t pages, uint64_t passed)
{
    return 10 * pages + (passed - pages);
}

/* One flush of [start, end) with as many calls as it takes. */
static void check_flush(struct p2mfast *p2m, uint64_t start, uint64_t end, unsigned skip,
                        uint64_t budget, size_t capacity)
{
    p2mfast_run_t runs[64];
    p2mfast_flush_t flush = {.next_gfn = start};
    uint64_t preempted_at = start; /* when it was preempted last, or began */
    uint64_t pages_then = 0;
    uint64_t most = budget <= 10 ? 1 : (budget + 9) / 10;

    memset(cleaned, 0, sizeof(cleaned));
    for (unsigned calls = 0; !flush.done && CHECK(calls < 10000); calls++) {
        size_t n;
        int more = p2mfast_cache_flush_range(p2m, &flush, end, skip, budget, runs, capacity, &n);

        CHECK(more == 0 || more == 1);
        CHECK(more == 0 || n == capacity);
        for (size_t i = 0; i < n; i++)
            clean(p2m, &runs[i]);
        if (more)
            continue;
        /* Preempted: never without progress, never late, never early. */
        CHECK(flush.next_gfn > preempted_at || flush.done);
        CHECK(flush.pages - pages_then <= most);
        if (!flush.done)
            CHECK(most_work(flush.pages - pages_then, flush.next_gfn - preempted_at) >= budget);
        preempted_at = flush.next_gfn;
        pages_then = flush.pages;
    }
    for (uint64_t gfn = 0; gfn < SPAN; gfn++) {
        bool inside = gfn >= start && gfn < end;

        CHECK_EQUAL(cleaned[gfn], inside && is_to_be_cleaned(p2m, gfn, skip));
        pages_then -= cleaned[gfn];
    }
    CHECK_EQUAL(pages_then, 0);
}

static void test_flush_preempted(void)
{
    static const size_t capacities[] = {1, 3, 64};
    struct p2mfast *p2m = populate();

    pool_snapshot(p2m);
    for (unsigned skip = P2MFAST_SKIP_NONE; skip <= P2MFAST_SKIP_PATH; skip++)
        for (uint64_t budget = 0; budget <= 40; budget++)
            for (unsigned i = 0; i < 3; i++)
                check_flush(p2m, 0, SPAN, skip, budget, capacities[i]);
    CHECK_UNCHANGED(p2m);
    CHECK_SOUND(p2m);
}

static void test_flush_ranges(void)
{
    struct p2mfast *p2m = populate();
    static const uint64_t edges[] = {0,    3,    7,    215,  232,  241,  512,  1023,
                                     1024, 1030, 1535, 1536, 1540, 2048, 2060, SPAN};
    const unsigned n = sizeof(edges) / sizeof(edges[0]);

    for (unsigned skip = P2MFAST_SKIP_NONE; skip <= P2MFAST_SKIP_PATH; skip++)
        for (unsigned i = 0; i < n; i++)
            for (unsigned j = i; j < n; j++) {
                check_flush(p2m, edges[i], edges[j], skip, 512, 64);
                check_flush(p2m, edges[i], edges[j], skip, 35, 2);
            }
}

/* The counts of section 2 of the design in small: Xen's rule cleans what lies below an armed
 * table, the path rule only what can have been touched. */
static void test_flush_skips(void)
{
    struct p2mfast *p2m = pool_start(40);
    const uint64_t pages[] = {8 * BLOCK, 8 * BLOCK - BLOCK + 1, 1};

    CHECK_EQUAL(pool_map(p2m, 0, 8 * BLOCK, 0x30000, P2MFAST_MAX_ORDER_0), 0);
    CHECK_EQUAL(p2mfast_invalidate_root(p2m), 0);
    CHECK_EQUAL(p2mfast_resolve_translation_fault(p2m, 5, P2MFAST_DEPTH_PATH, 0), 1);
    for (unsigned skip = P2MFAST_SKIP_NONE; skip <= P2MFAST_SKIP_PATH; skip++) {
        p2mfast_flush_t flush = {.next_gfn = 0};
        p2mfast_run_t runs[4];
        size_t n;

        CHECK_EQUAL(
            p2mfast_cache_flush_range(p2m, &flush, UINT64_MAX, skip, UINT64_MAX, runs, 4, &n), 0);
        CHECK(flush.done);
        CHECK_EQUAL(flush.pages, pages[skip]);
    }
}

static void test_flush_of_nothing(void)
{
    struct p2mfast *p2m = pool_start(40);
    p2mfast_flush_t flush = {.next_gfn = 0};
    p2mfast_run_t run;
    size_t n = 9;

    CHECK_EQUAL(
        p2mfast_cache_flush_range(p2m, &flush, UINT64_MAX, P2MFAST_SKIP_NONE, 1, &run, 1, &n), 0);
    CHECK(flush.done && n == 0 && flush.pages == 0);
    CHECK_EQUAL(p2mfast_cache_flush_range(p2m, &flush, 1, P2MFAST_SKIP_PATH + 1, 1, &run, 1, &n),
                P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(p2mfast_cache_flush_range(p2m, &flush, 1, P2MFAST_SKIP_PATH, 1, &run, 0, &n),
                P2MFAST_ERROR_ARGUMENT);
}

/* ---- Relinquish ---- */

static uint64_t leaves(struct p2mfast *p2m)
{
    p2mfast_stats_t stats = pool_stats(p2m);

    return stats.mappings[1] + stats.mappings[2] + stats.mappings[3];
}

static void check_relinquish(uint64_t budget)
{
    struct p2mfast *p2m = pool_start(40);
    uint64_t tables;
    int more = 1;

    CHECK_EQUAL(pool_map(p2m, 7, BLOCK + 20, 0x30000, 0), 0);
    CHECK_EQUAL(pool_map(p2m, 4 * BLOCK, 2 * BLOCK, 0x100000, P2MFAST_ARMED), 0);
    CHECK_EQUAL(pool_map(p2m, GIB, GIB, 0x200000, 0), 0);
    CHECK_EQUAL(pool_map(p2m, 2 * GIB + 100, 3, 0x70, 0), 0);
    tables = pool.in_use;
    for (unsigned calls = 0; more == 1 && CHECK(calls < 3000); calls++) {
        uint64_t before = leaves(p2m);
        uint64_t lowest = p2mfast_lowest_mapped_gfn(p2m);

        more = p2mfast_relinquish(p2m, budget);
        CHECK(before - leaves(p2m) <= (budget ? budget : 1));
        CHECK(p2mfast_lowest_mapped_gfn(p2m) > lowest);
        CHECK_SOUND(p2m);
    }
    CHECK_EQUAL(more, 0);
    CHECK_EQUAL(leaves(p2m), 0);
    /* The tables stay until the P2M goes, empty. */
    CHECK_EQUAL(pool.in_use, tables);
    CHECK_EQUAL(pool.calls.give, 0);
    CHECK_EQUAL(pool_mfn(p2m, 7), P2MFAST_INVALID_MFN);
    CHECK_EQUAL(pool_mfn(p2m, GIB + 5), P2MFAST_INVALID_MFN);
    CHECK_EQUAL(pool_mfn(p2m, 2 * GIB + 102), P2MFAST_INVALID_MFN);
    CHECK_EQUAL(p2mfast_relinquish(p2m, budget), 0);
    /* It can be used again. */
    CHECK_EQUAL(pool_map(p2m, 9, 1, 0x99, 0), 0);
    CHECK_EQUAL(pool_mfn(p2m, 9), 0x99);
    CHECK_EQUAL(p2mfast_lowest_mapped_gfn(p2m), 9);
    CHECK_SOUND(p2m);
}

static void test_relinquish(void)
{
    struct p2mfast *p2m = pool_start(40);

    CHECK_EQUAL(p2mfast_relinquish(p2m, 1), 0);
    CHECK_EQUAL(p2mfast_lowest_mapped_gfn(p2m), P2MFAST_INVALID_GFN);
    check_relinquish(0);
    check_relinquish(1);
    check_relinquish(3);
    check_relinquish(100);
    check_relinquish(512);
    check_relinquish(UINT64_MAX);
}

/* One invalidation a call is enough. */
static void test_relinquish_invalidates_once(void)
{
    struct p2mfast *p2m = pool_start(40);
    unsigned before;

    CHECK_EQUAL(pool_map(p2m, 7, 4 * BLOCK, 0x30000, 0), 0);
    before = pool.calls.invalidate_tlb;
    CHECK_EQUAL(p2mfast_relinquish(p2m, UINT64_MAX), 0);
    CHECK_EQUAL(pool.calls.invalidate_tlb - before, 1);
    CHECK(pool.last_invalidation.start <= 7 && pool.last_invalidation.end >= 7 + 4 * BLOCK);
}

void core_flush_tests(void)
{
    RUN(test_flush_preempted);
    RUN(test_flush_ranges);
    RUN(test_flush_skips);
    RUN(test_flush_of_nothing);
    RUN(test_relinquish);
    RUN(test_relinquish_invalidates_once);
}
