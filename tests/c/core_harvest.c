/*
 * Harvest: collect every reachable page of RAM and arm it, in pieces, and lose none that a guest
 * touches meanwhile.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "core_tests.h"
#include "pool.h"

#define BLOCK 512u
#define GIB (BLOCK * BLOCK)
#define MAX_ITEMS 800

/* A mapping that no other one goes on from, so that each is a run of its own. */
static struct item {
    uint64_t gfn;
    uint64_t mfn;
    uint64_t nr;
    bool ram;
    bool due; /* reachable, and not collected since it became so */
} items[MAX_ITEMS];
static unsigned n_items;

static void add(struct p2mfast *p2m, uint64_t gfn, uint64_t nr, unsigned type, unsigned flags)
{
    struct item *item = &items[n_items++];

    *item = (struct item){gfn, 0x100000 + n_items * 2 * BLOCK, nr, type != P2MFAST_MMIO_DIRECT_DEV,
                          !(flags & P2MFAST_ARMED)};
    CHECK_EQUAL(p2mfast_set_entry(p2m, gfn, nr, item->mfn, type, P2MFAST_ACCESS_RW, flags), 0);
}

/* Pages and blocks of every kind below four entries of the root. */
static struct p2mfast *populate(unsigned ipa_bits)
{
    struct p2mfast *p2m = pool_start(ipa_bits);

    n_items = 0;
    for (unsigned i = 0; i < 600; i++)
        add(p2m, 10 + i, 1, P2MFAST_RAM_RW, 0);
    add(p2m, 4 * BLOCK, BLOCK, P2MFAST_RAM_RO, 0);
    add(p2m, 5 * BLOCK, BLOCK, P2MFAST_MMIO_DIRECT_DEV, 0);
    add(p2m, 6 * BLOCK, BLOCK, P2MFAST_RAM_RW, P2MFAST_ARMED);
    for (unsigned i = 0; i < 5; i++) {
        add(p2m, GIB + 5 + 4 * i, 1, P2MFAST_RAM_RW, 0);
        add(p2m, GIB + 6 + 4 * i, 1, P2MFAST_RAM_RW, P2MFAST_ARMED);
        add(p2m, GIB + 7 + 4 * i, 1, P2MFAST_MMIO_DIRECT_DEV, 0);
        add(p2m, GIB + 8 + 4 * i, 1, P2MFAST_MAP_FOREIGN_RO, 0);
    }
    add(p2m, 2 * GIB + 9 * BLOCK, 1, P2MFAST_GRANT_MAP_RW, 0);
    if (ipa_bits > 32)
        for (uint64_t i = 0; i < 3; i++)
            add(p2m, (UINT64_C(1) << (ipa_bits - 12)) - 1 - i, 1, P2MFAST_RAM_RW, 0);
    CHECK_SOUND(p2m);
    return p2m;
}

/* A run is a whole item that was due; it is not any more. */
static void collect(const p2mfast_run_t *run)
{
    for (unsigned i = 0; i < n_items; i++) {
        if (items[i].gfn != run->gfn)
            continue;
        CHECK_EQUAL(run->mfn, items[i].mfn);
        CHECK_EQUAL(run->nr, items[i].nr);
        CHECK(items[i].ram);
        CHECK(items[i].due);
        items[i].due = false;
        return;
    }
    CHECK(!"a run of what was never mapped");
}

/* What was not collected stays reachable, what was is armed. What is no RAM may be either. */
static void check_due(const struct p2mfast *p2m)
{
    for (unsigned i = 0; i < n_items; i++)
        if (items[i].ram)
            CHECK_EQUAL(pool_reachable(p2m, items[i].gfn), items[i].due);
}

static void check_all_armed(const struct p2mfast *p2m)
{
    for (unsigned i = 0; i < p2mfast_root_pages(p2m) * 512; i++)
        CHECK(!(p2m->root[i] & 1));
    for (unsigned i = 0; i < n_items; i++) {
        CHECK(!pool_reachable(p2m, items[i].gfn));
        CHECK(!(items[i].ram && items[i].due));
    }
}

/* A guest touches something that is not reachable, or is already. */
static void touch(struct p2mfast *p2m, uint64_t *seed)
{
    struct item *item = &items[harness_below(seed, n_items)];

    CHECK_EQUAL(
        p2mfast_resolve_translation_fault(p2m, item->gfn + item->nr / 2, P2MFAST_DEPTH_PATH, 0), 1);
    item->due = true;
}

/* One harvest from beginning to end; every touch_each calls a page is touched. Returns the number
 * of calls. */
static unsigned harvest(struct p2mfast *p2m, size_t capacity, unsigned touch_each, uint64_t *seed)
{
    static p2mfast_run_t runs[MAX_ITEMS];
    uint64_t cursor = 0;
    unsigned calls = 0;
    int more;

    do {
        size_t n = 0;

        more = p2mfast_harvest(p2m, &cursor, runs, capacity, &n);
        CHECK(more == 0 || more == 1);
        CHECK(n <= capacity);
        /* Where a whole table's runs could fit, a call does not begin one that may not. */
        CHECK(n == capacity || more == 0 || (capacity >= 512 && n > capacity - 512));
        for (size_t i = 0; i < n; i++)
            collect(&runs[i]);
        check_due(p2m);
        calls++;
        if (more && touch_each && calls % touch_each == 0)
            touch(p2m, seed);
    } while (more == 1 && CHECK(calls < 5000));
    CHECK_SOUND(p2m);
    return calls;
}

static const unsigned ipa_sizes[] = {32, 40, 42, 48};
static const size_t capacities[] = {1, 2, 7, 100, MAX_ITEMS};

static void test_in_pieces(void)
{
    for (unsigned i = 0; i < 4; i++) {
        for (unsigned j = 0; j < 5; j++) {
            struct p2mfast *p2m = populate(ipa_sizes[i]);
            uint64_t seed = 3;

            harvest(p2m, capacities[j], 0, &seed);
            check_all_armed(p2m);
            CHECK_EQUAL(pool_stats(p2m).armed, 1);
            /* Nothing was touched since: nothing is found. */
            CHECK_EQUAL(harvest(p2m, capacities[j], 0, &seed), 1);
            for (unsigned k = 0; k < 20; k++)
                touch(p2m, &seed);
            harvest(p2m, capacities[j], 0, &seed);
            check_all_armed(p2m);
            CHECK_EQUAL(pool_stats(p2m).armed, 3);
        }
    }
}

/* A page touched in a part that is collected already is in this harvest or in the next. */
static void test_touched_meanwhile(void)
{
    for (unsigned i = 0; i < 4; i++) {
        for (unsigned j = 0; j < 4; j++) {
            struct p2mfast *p2m = populate(ipa_sizes[i]);
            uint64_t seed = 4 + j;
            unsigned left = 0;

            harvest(p2m, capacities[j], 2, &seed);
            /* What is due now was touched behind the cursor, and can still be reached. */
            check_due(p2m);
            for (unsigned k = 0; k < n_items; k++)
                left += items[k].ram && items[k].due;
            CHECK(j || left);
            harvest(p2m, capacities[j], 0, &seed);
            check_all_armed(p2m);
        }
    }
}

/* The one case by hand: the piece before has collected the page, the root's entry is not armed
 * yet, and the page is touched again. The harvest goes on all the same, and keeps the page for the
 * next one where there is no room left for it. */
static void test_touched_again_in_this_harvest(void)
{
    for (size_t capacity = 1; capacity <= 2; capacity++) {
        struct p2mfast *p2m = pool_start(40);
        p2mfast_run_t runs[2];
        uint64_t cursor = 0;
        size_t n;

        CHECK_EQUAL(pool_map(p2m, 0, 1, 0x100, 0), 0);
        CHECK_EQUAL(pool_map(p2m, 1, 1, 0x200, 0), 0);
        CHECK_EQUAL(p2mfast_harvest(p2m, &cursor, runs, 1, &n), 1);
        CHECK(n == 1 && runs[0].gfn == 0 && runs[0].mfn == 0x100 && runs[0].nr == 1);
        CHECK(!pool_reachable(p2m, 0) && pool_reachable(p2m, 1));
        CHECK_EQUAL(p2mfast_resolve_translation_fault(p2m, 0, P2MFAST_DEPTH_PATH, 0), 1);
        CHECK_EQUAL(p2mfast_harvest(p2m, &cursor, runs, capacity, &n), 0);
        CHECK(n == capacity && runs[0].gfn == 1);
        CHECK(!pool_reachable(p2m, 1));
        if (capacity == 1) {
            CHECK(pool_reachable(p2m, 0));
            cursor = 0;
            CHECK_EQUAL(p2mfast_harvest(p2m, &cursor, runs, 1, &n), 0);
            CHECK_EQUAL(n, 1);
        }
        CHECK_EQUAL(runs[n - 1].gfn, 0);
        CHECK(!pool_reachable(p2m, 0));
        CHECK(!(p2m->root[0] & 1));
        CHECK_SOUND(p2m);
    }
}

/* A guest that keeps touching what was collected cannot hold a harvest up. */
static void test_a_busy_guest(void)
{
    struct p2mfast *p2m = pool_start(40);
    p2mfast_run_t run;
    uint64_t cursor = 0;
    unsigned calls = 0;
    int more = 1;
    size_t n;

    for (uint64_t gfn = 0; gfn < 20; gfn++)
        CHECK_EQUAL(pool_map(p2m, gfn * 100, 1, 0x1000 + gfn * 7, 0), 0);
    while (more && ++calls < 100) {
        more = p2mfast_harvest(p2m, &cursor, &run, 1, &n);
        for (uint64_t gfn = 0; more && gfn <= run.gfn; gfn += 100)
            CHECK_EQUAL(p2mfast_resolve_translation_fault(p2m, gfn, P2MFAST_DEPTH_PATH, 0), 1);
    }
    CHECK(calls <= 21);
    CHECK_SOUND(p2m);
}

/* Runs go on over tables and blocks; what is armed or no RAM parts them. */
static void test_runs(void)
{
    struct p2mfast *p2m = pool_start(40);
    p2mfast_run_t runs[8];
    uint64_t cursor = 0;
    size_t n;

    CHECK_EQUAL(pool_map(p2m, BLOCK - 2, 2 * BLOCK + 4, 0x100000 - 2, P2MFAST_MAX_ORDER_9), 0);
    CHECK_EQUAL(pool_map(p2m, GIB - 1, 2, 0x300000, 0), 0);
    CHECK_EQUAL(p2mfast_set_entry(p2m, BLOCK + 9, 1, 0x99, P2MFAST_MMIO_DIRECT_C, 7, 0), 0);
    CHECK_EQUAL(p2mfast_harvest(p2m, &cursor, runs, 8, &n), 0);
    CHECK_EQUAL(n, 3);
    CHECK(runs[0].gfn == BLOCK - 2 && runs[0].mfn == 0x100000 - 2 && runs[0].nr == 11);
    CHECK(runs[1].gfn == BLOCK + 10 && runs[1].mfn == 0x10000a && runs[1].nr == 2 * BLOCK - 8);
    CHECK(runs[2].gfn == GIB - 1 && runs[2].mfn == 0x300000 && runs[2].nr == 2);
    CHECK_SOUND(p2m);
}

static void test_arguments(void)
{
    struct p2mfast *p2m = pool_start(40);
    p2mfast_run_t run;
    uint64_t cursor = 0;
    size_t n = 9;

    CHECK_EQUAL(pool_map(p2m, 0, 1, 0x100, 0), 0);
    pool_snapshot(p2m);
    CHECK_EQUAL(p2mfast_harvest(p2m, &cursor, &run, 0, &n), P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(n, 0);
    cursor = UINT64_MAX;
    CHECK_EQUAL(p2mfast_harvest(p2m, &cursor, &run, 1, &n), P2MFAST_ERROR_ARGUMENT);
    CHECK_UNCHANGED(p2m);
}

void core_harvest_tests(void)
{
    RUN(test_in_pieces);
    RUN(test_touched_meanwhile);
    RUN(test_touched_again_in_this_harvest);
    RUN(test_a_busy_guest);
    RUN(test_runs);
    RUN(test_arguments);
}
