/*
 * Foreign mappings hold a reference on their page: their going is reported, exactly once a page.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "core_tests.h"
#include "pool.h"

#define BLOCK 512u
#define GIB (BLOCK * BLOCK)
#define NONE P2MFAST_INVALID_MFN
#define RW P2MFAST_MAP_FOREIGN_RW
#define RO P2MFAST_MAP_FOREIGN_RO

static int map_foreign(struct p2mfast *p2m, uint64_t gfn, uint64_t nr, uint64_t mfn, unsigned type)
{
    return p2mfast_set_entry(p2m, gfn, nr, mfn, type, P2MFAST_ACCESS_RWX, 0);
}

/* These and no other runs were reported; forget them. */
#define CHECK_REMOVED(...)                                                                         \
    check_removed((const struct pool_removal[]){__VA_ARGS__},                                      \
                  sizeof((const struct pool_removal[]){__VA_ARGS__}) /                             \
                      sizeof(struct pool_removal))

static void check_removed(const struct pool_removal *want, size_t n)
{
    CHECK_EQUAL(pool.removals, n);
    for (size_t i = 0; i < n && i < pool.removals; i++) {
        CHECK_EQUAL(pool.removed[i].gfn, want[i].gfn);
        CHECK_EQUAL(pool.removed[i].mfn, want[i].mfn);
        CHECK_EQUAL(pool.removed[i].nr, want[i].nr);
        CHECK_EQUAL(pool.removed[i].type, want[i].type);
    }
    pool.removals = 0;
}

static void check_none_removed(void)
{
    CHECK_EQUAL(pool.removals, 0);
    CHECK_EQUAL(pool.calls.mapping_removed, 0);
}

static void test_pages(void)
{
    struct p2mfast *p2m = pool_start(40);

    CHECK_EQUAL(map_foreign(p2m, BLOCK - 4, 8, 0x100, RW), 0);
    CHECK_EQUAL(map_foreign(p2m, BLOCK + 4, 4, 0x108, RO), 0);
    CHECK_EQUAL(pool_map(p2m, BLOCK + 8, 4, 0x300, 0), 0);
    check_none_removed();
    /* Over a table's end; the type parts what the frames would join; RAM is not reported. */
    CHECK_EQUAL(pool_unmap(p2m, BLOCK - 2, 12), 0);
    CHECK_REMOVED({BLOCK - 2, 0x102, 6, RW}, {BLOCK + 4, 0x108, 4, RO});
    CHECK_SOUND(p2m);
    CHECK_EQUAL(pool_unmap(p2m, 0, GIB), 0);
    CHECK_REMOVED({BLOCK - 4, 0x100, 2, RW});
    CHECK_EQUAL(p2m->counted, 0);
    CHECK_SOUND(p2m);
}

static void test_replaced_pages(void)
{
    struct p2mfast *p2m = pool_start(40);

    CHECK_EQUAL(map_foreign(p2m, 0, 16, 0x100, RW), 0);
    /* A change of rights keeps the reference. */
    CHECK_EQUAL(map_foreign(p2m, 2, 4, 0x102, RO), 0);
    CHECK_EQUAL(p2mfast_set_entry(p2m, 8, 2, 0x108, RW, P2MFAST_ACCESS_R, P2MFAST_ARMED), 0);
    check_none_removed();
    CHECK_SOUND(p2m);
    /* Another page does not, nor does the same one as RAM. */
    CHECK_EQUAL(map_foreign(p2m, 1, 2, 0x201, RW), 0);
    CHECK_REMOVED({1, 0x101, 1, RW}, {2, 0x102, 1, RO});
    CHECK_EQUAL(pool_map(p2m, 4, 1, 0x104, 0), 0);
    CHECK_REMOVED({4, 0x104, 1, RO});
    CHECK_SOUND(p2m);
    CHECK_EQUAL(p2mfast_remove_mapping(p2m, 6, 1, 0x107), P2MFAST_ERROR_MISMATCH);
    CHECK_EQUAL(pool.removals, 0);
    CHECK_EQUAL(p2mfast_remove_mapping(p2m, 6, 1, 0x106), 0);
    CHECK_REMOVED({6, 0x106, 1, RW});
    CHECK_SOUND(p2m);
}

static void test_shattered_2_mib(void)
{
    struct p2mfast *p2m = pool_start(40);

    CHECK_EQUAL(map_foreign(p2m, BLOCK, 2 * BLOCK, 0x100000, RW), 0);
    CHECK_EQUAL(p2m->counted, 2);
    CHECK_EQUAL(pool_unmap(p2m, BLOCK + 100, 50), 0);
    CHECK_REMOVED({BLOCK + 100, 0x100064, 50, RW});
    CHECK_EQUAL(p2m->counted, 1 + BLOCK - 50);
    CHECK_SOUND(p2m);
    /* Replaced by a page of another MFN, and by one of its own. */
    CHECK_EQUAL(map_foreign(p2m, 2 * BLOCK + 7, 1, 0x100000 + BLOCK + 7, RO), 0);
    CHECK_EQUAL(pool.removals, 0);
    CHECK_EQUAL(map_foreign(p2m, 2 * BLOCK + 8, 1, 0x77, RW), 0);
    CHECK_REMOVED({2 * BLOCK + 8, 0x100000 + BLOCK + 8, 1, RW});
    CHECK_SOUND(p2m);
    /* Together with its table. */
    CHECK_EQUAL(pool_unmap(p2m, BLOCK, BLOCK), 0);
    CHECK_REMOVED({BLOCK, 0x100000, 100, RW}, {BLOCK + 150, 0x100000 + 150, BLOCK - 150, RW});
    CHECK_SOUND(p2m);
}

static void test_shattered_1_gib(void)
{
    struct p2mfast *p2m = pool_start(40);

    CHECK_EQUAL(map_foreign(p2m, GIB, GIB, 0x100000, RO), 0);
    CHECK_EQUAL(pool_unmap(p2m, GIB + 1000, 4000), 0);
    CHECK_REMOVED({GIB + 1000, 0x100000 + 1000, 4000, RO});
    CHECK_SOUND(p2m);
    /* The rest, in pages and blocks, goes with a superpage of RAM put over it. */
    CHECK_EQUAL(pool_map(p2m, GIB, GIB, 0x200000, 0), 0);
    CHECK_REMOVED({GIB, 0x100000, 1000, RO}, {GIB + 5000, 0x100000 + 5000, GIB - 5000, RO});
    CHECK_EQUAL(p2m->counted, 0);
    CHECK_EQUAL(pool.in_use, 0);
    CHECK_SOUND(p2m);
}

static void test_whole_blocks(void)
{
    struct p2mfast *p2m = pool_start(40);

    CHECK_EQUAL(map_foreign(p2m, 0, 2 * BLOCK, 0x100000, RW), 0);
    CHECK_EQUAL(map_foreign(p2m, GIB, GIB, 0x200000, RW), 0);
    /* Blocks that are not adjacent in the machine are two runs. */
    CHECK_EQUAL(map_foreign(p2m, 2 * BLOCK, BLOCK, 0x180000, RW), 0);
    CHECK_EQUAL(pool_unmap(p2m, 0, 2 * GIB), 0);
    CHECK_REMOVED({0, 0x100000, 2 * BLOCK, RW}, {2 * BLOCK, 0x180000, BLOCK, RW},
                  {GIB, 0x200000, GIB, RW});
    CHECK_SOUND(p2m);
}

static void test_relinquish(void)
{
    struct p2mfast *p2m = pool_start(40);
    int more = 1;

    CHECK_EQUAL(map_foreign(p2m, 5, 10, 0x100, RW), 0);
    CHECK_EQUAL(pool_map(p2m, 15, 5, 0x10a, 0), 0);
    CHECK_EQUAL(map_foreign(p2m, BLOCK, BLOCK, 0x200000, RO), 0);
    for (unsigned calls = 0; more == 1 && calls < 200; calls++) {
        more = p2mfast_relinquish(p2m, 4);
        CHECK_SOUND(p2m);
    }
    CHECK_EQUAL(more, 0);
    CHECK_REMOVED({5, 0x100, 4, RW}, {9, 0x104, 4, RW}, {13, 0x108, 2, RW},
                  {BLOCK, 0x200000, BLOCK, RO});
    CHECK_EQUAL(p2m->counted, 0);
}

static void test_scattered(void)
{
    struct p2mfast *p2m = pool_start(40);
    const uint64_t gfns[] = {BLOCK + 3, 1, BLOCK + 4, 0, 1};
    const uint64_t mfns[] = {NONE, 0x101, 0x66, NONE, NONE};

    CHECK_EQUAL(map_foreign(p2m, 0, 4, 0x100, RW), 0);
    CHECK_EQUAL(map_foreign(p2m, BLOCK, BLOCK, 0x200000, RW), 0);
    CHECK_EQUAL(p2mfast_set_entries(p2m, gfns, mfns, 5, RW, 7, 0), 0);
    CHECK_REMOVED({BLOCK + 3, 0x200003, 2, RW}, {0, 0x100, 2, RW});
    CHECK_SOUND(p2m);
}

/* What a batch itself has mapped goes when a later entry of it maps the same GFN, and room for
 * that report must have been promised like any other. */
static void test_replaced_in_one_batch(void)
{
    struct p2mfast *p2m = pool_start(40);
    const uint64_t gfns[] = {7, 7, 7};
    const uint64_t mfns[] = {0x100, 0x200, NONE};

    CHECK_EQUAL(p2mfast_set_entries(p2m, gfns, mfns, 3, RW, 7, P2MFAST_ARMED), 0);
    CHECK_REMOVED({7, 0x100, 1, RW}, {7, 0x200, 1, RW});
    CHECK_SOUND(p2m);
}

void core_foreign_tests(void)
{
    RUN(test_pages);
    RUN(test_replaced_pages);
    RUN(test_shattered_2_mib);
    RUN(test_shattered_1_gib);
    RUN(test_whole_blocks);
    RUN(test_relinquish);
    RUN(test_scattered);
    RUN(test_replaced_in_one_batch);
}
