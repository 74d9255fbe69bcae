/*
 * Arm and resolve: which pages a guest can reach, and how many faults the way there takes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "core_tests.h"
#include "pool.h"

#define BLOCK 512u
#define GIB (BLOCK * BLOCK)

static int resolve(struct p2mfast *p2m, uint64_t gfn, unsigned depth, unsigned order)
{
    return p2mfast_resolve_translation_fault(p2m, gfn, depth, order);
}

/* The level at which the MMU stops on the way to gfn; 4: nowhere. */
static int faulting_level(const struct p2mfast *p2m, uint64_t gfn)
{
    p2mfast_translation_t result;

    CHECK_EQUAL(p2mfast_translate(p2m, gfn << 12, 1, &result), 0);
    if (result.fault)
        CHECK_EQUAL(result.fault, P2MFAST_FAULT_TRANSLATION);
    CHECK_EQUAL(!result.fault, pool_reachable(p2m, gfn));
    return result.fault ? result.level : 4;
}

static uint64_t reachable_pages(const struct p2mfast *p2m, uint64_t gfn, uint64_t nr)
{
    uint64_t n = 0;

    for (uint64_t i = 0; i < nr; i++)
        n += pool_reachable(p2m, gfn + i);
    return n;
}

/* ---- Arm ---- */

/* A page and a block below every root page, and one page at each end. */
static void check_invalidate_root(unsigned ipa_bits, unsigned root_pages)
{
    struct p2mfast *p2m = pool_start(ipa_bits);
    uint64_t limit = UINT64_C(1) << (ipa_bits - 12);
    uint64_t part = limit / root_pages;
    unsigned invalidations;

    CHECK_EQUAL(p2mfast_root_pages(p2m), root_pages);
    for (unsigned i = 0; i < root_pages; i++) {
        CHECK_EQUAL(pool_map(p2m, i * part + 3, 1, 0x100 + i, 0), 0);
        CHECK_EQUAL(pool_map(p2m, (i + 1) * part - BLOCK, BLOCK, 0x100000, 0), 0);
    }
    invalidations = pool.calls.invalidate_tlb;
    CHECK_EQUAL(p2mfast_invalidate_root(p2m), 0);
    CHECK_EQUAL(pool.calls.invalidate_tlb - invalidations, 1);
    CHECK_EQUAL(pool.last_invalidation.start, 0);
    CHECK_EQUAL(pool.last_invalidation.end, limit);
    for (unsigned i = 0; i < root_pages * 512; i++)
        CHECK(!(p2m->root[i] & 1));
    for (unsigned i = 0; i < root_pages; i++) {
        p2mfast_entry_t entry;

        CHECK_EQUAL(faulting_level(p2m, i * part + 3), p2mfast_root_level(p2m));
        CHECK_EQUAL(faulting_level(p2m, (i + 1) * part - 1), p2mfast_root_level(p2m));
        /* Nothing is lost by it, and the leaf's own bit is as it was. */
        CHECK_EQUAL(p2mfast_get_entry(p2m, i * part + 3, &entry), 0);
        CHECK_EQUAL(entry.mfn, 0x100 + i);
        CHECK(entry.valid && !entry.reachable);
    }
    CHECK_EQUAL(pool_stats(p2m).armed, 1);
    CHECK_SOUND(p2m);
}

static void test_invalidate_root(void)
{
    check_invalidate_root(32, 1);
    check_invalidate_root(36, 1);
    check_invalidate_root(40, 2);
    check_invalidate_root(42, 8);
    check_invalidate_root(44, 1);
    check_invalidate_root(48, 1);
}

/* ---- Resolve, one level a call ---- */

static void check_resolve_level(unsigned ipa_bits)
{
    struct p2mfast *p2m = pool_start(ipa_bits);
    int root_level = p2mfast_root_level(p2m);
    uint64_t traps = 4 - (uint64_t)root_level;

    CHECK_EQUAL(pool_map(p2m, 0, 2 * BLOCK, 0x30000, P2MFAST_MAX_ORDER_0), 0);
    CHECK_EQUAL(pool_map(p2m, 2 * BLOCK, BLOCK, 0x100000, 0), 0);
    CHECK_EQUAL(p2mfast_invalidate_root(p2m), 0);
    for (int level = root_level; level <= 3; level++) {
        CHECK_EQUAL(faulting_level(p2m, 5), level);
        CHECK_EQUAL(resolve(p2m, 5, P2MFAST_DEPTH_LEVEL, 0), 1);
        CHECK_SOUND(p2m);
    }
    CHECK_EQUAL(faulting_level(p2m, 5), 4);
    /* Nobody else: the neighbours' state was pushed down. */
    CHECK_EQUAL(reachable_pages(p2m, 0, 3 * BLOCK), 1);
    CHECK_EQUAL(faulting_level(p2m, 6), 3);
    CHECK_EQUAL(faulting_level(p2m, BLOCK + 5), 2);
    CHECK_EQUAL(faulting_level(p2m, 2 * BLOCK + 5), 2);
    CHECK_EQUAL(pool_stats(p2m).resolved, traps);
    /* A block takes one level less, and all of it comes. */
    CHECK_EQUAL(resolve(p2m, 2 * BLOCK + 5, P2MFAST_DEPTH_LEVEL, 0), 1);
    CHECK_EQUAL(reachable_pages(p2m, 0, 3 * BLOCK), 1 + BLOCK);
    /* Two more for the other table. */
    CHECK_EQUAL(resolve(p2m, BLOCK + 5, P2MFAST_DEPTH_LEVEL, 0), 1);
    CHECK_EQUAL(faulting_level(p2m, BLOCK + 5), 3);
    /* With the aligned group around it, inside the last table. */
    CHECK_EQUAL(resolve(p2m, BLOCK + 5, P2MFAST_DEPTH_LEVEL, 4), 1);
    CHECK_EQUAL(reachable_pages(p2m, BLOCK, BLOCK), 16);
    CHECK_EQUAL(reachable_pages(p2m, BLOCK, 16), 16);
    /* A spurious fault is resolved; a hole is not. */
    CHECK_EQUAL(resolve(p2m, 5, P2MFAST_DEPTH_LEVEL, 0), 1);
    CHECK_EQUAL(resolve(p2m, 3 * BLOCK, P2MFAST_DEPTH_LEVEL, 0), 0);
    CHECK_SOUND(p2m);
}

static void test_resolve_level(void)
{
    check_resolve_level(32);
    check_resolve_level(40);
    check_resolve_level(48);
}

/* ---- Resolve, the whole path ---- */

static void check_resolve_path(unsigned ipa_bits)
{
    struct p2mfast *p2m = pool_start(ipa_bits);
    int root_level = p2mfast_root_level(p2m);

    CHECK_EQUAL(pool_map(p2m, 0, 2 * BLOCK, 0x30000, P2MFAST_MAX_ORDER_0), 0);
    CHECK_EQUAL(pool_map(p2m, 2 * BLOCK, BLOCK, 0x100000, 0), 0);
    CHECK_EQUAL(pool_map(p2m, GIB, 1, 0x70, 0), 0);
    CHECK_EQUAL(p2mfast_invalidate_root(p2m), 0);
    /* A hole, in a table and beside one: nothing happens on the way. */
    pool_snapshot(p2m);
    CHECK_EQUAL(resolve(p2m, GIB + 1, P2MFAST_DEPTH_PATH, 0), 0);
    CHECK_EQUAL(resolve(p2m, 3 * BLOCK, P2MFAST_DEPTH_PATH, 9), 0);
    CHECK_UNCHANGED(p2m);

    CHECK_EQUAL(resolve(p2m, 5, P2MFAST_DEPTH_PATH, 0), 1);
    CHECK_EQUAL(reachable_pages(p2m, 0, 3 * BLOCK), 1);
    CHECK_EQUAL(faulting_level(p2m, 5), 4);
    CHECK_EQUAL(faulting_level(p2m, 6), 3);
    CHECK_EQUAL(faulting_level(p2m, BLOCK), 2);
    CHECK_EQUAL(faulting_level(p2m, GIB), 1);
    CHECK_EQUAL(resolve(p2m, BLOCK, P2MFAST_DEPTH_PATH, 0), 1);
    CHECK_EQUAL(resolve(p2m, 2 * BLOCK + 9, P2MFAST_DEPTH_PATH, 0), 1);
    CHECK_EQUAL(reachable_pages(p2m, 0, 3 * BLOCK), 2 + BLOCK);
    CHECK_EQUAL(resolve(p2m, GIB, P2MFAST_DEPTH_PATH, 0), 1);
    CHECK_EQUAL(faulting_level(p2m, GIB), 4);
    CHECK_EQUAL(pool_stats(p2m).resolved, 4);
    CHECK_EQUAL(faulting_level(p2m, GIB + 1), 3);
    CHECK(root_level < 2);
    CHECK_SOUND(p2m);
}

static void test_resolve_path(void)
{
    check_resolve_path(32);
    check_resolve_path(40);
    check_resolve_path(48);
}

/* The aligned group, where something is mapped, and nothing else. */
static void test_fault_around(void)
{
    static const unsigned orders[] = {1, 4, 8, 9, 10, 18};

    for (unsigned i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
        struct p2mfast *p2m = pool_start(40);
        unsigned order = orders[i];
        uint64_t gfn = BLOCK + 21;
        uint64_t first = gfn >> order << order;
        uint64_t in_group = 0;

        CHECK_EQUAL(pool_map(p2m, 10, 3 * BLOCK - 10, 0x30000, P2MFAST_MAX_ORDER_0), 0);
        CHECK_EQUAL(pool_unmap(p2m, gfn + 1, 1), 0);
        CHECK_EQUAL(pool_map(p2m, 3 * BLOCK, BLOCK, 0x100000, 0), 0);
        CHECK_EQUAL(pool_map(p2m, GIB, BLOCK, 0x100000, 0), 0);
        CHECK_EQUAL(p2mfast_invalidate_root(p2m), 0);
        CHECK_EQUAL(resolve(p2m, gfn, P2MFAST_DEPTH_PATH, order), 1);
        for (uint64_t at = 0; at < 4 * BLOCK; at++) {
            bool inside = at >= first && at < first + (UINT64_C(1) << order);
            bool mapped = pool_mfn(p2m, at) != P2MFAST_INVALID_MFN;

            CHECK_EQUAL(pool_reachable(p2m, at), inside && mapped);
            in_group += inside && mapped;
        }
        CHECK(in_group > 0);
        CHECK(!pool_reachable(p2m, GIB));
        CHECK_SOUND(p2m);
    }
}

/* A table of the group that maps nothing is left alone: a harvest has nothing to find there. */
static void test_fault_around_an_empty_table(void)
{
    struct p2mfast *p2m = pool_start(40);

    CHECK_EQUAL(pool_map(p2m, 0, BLOCK + 9, 0x30000, 0), 0);
    CHECK_EQUAL(pool_unmap(p2m, BLOCK, 9), 0);
    CHECK_EQUAL(p2mfast_invalidate_root(p2m), 0);
    CHECK_EQUAL(resolve(p2m, 7, P2MFAST_DEPTH_PATH, 10), 1);
    CHECK_EQUAL(reachable_pages(p2m, 0, 2 * BLOCK), BLOCK);
    CHECK(*pool_word(p2m, 2, 0) & 1);
    CHECK(!(*pool_word(p2m, 2, BLOCK) & 1));
    CHECK_SOUND(p2m);
}

/* At the end of the space a group is cut off. */
static void test_fault_around_at_the_end(void)
{
    struct p2mfast *p2m = pool_start(32);
    uint64_t limit = UINT64_C(1) << 20;

    CHECK_EQUAL(pool_map(p2m, limit - 3, 3, 0x70, 0), 0);
    CHECK_EQUAL(p2mfast_invalidate_root(p2m), 0);
    CHECK_EQUAL(resolve(p2m, limit - 1, P2MFAST_DEPTH_PATH, 18), 1);
    CHECK_EQUAL(reachable_pages(p2m, limit - 3, 3), 3);
    CHECK_SOUND(p2m);
}

/* What was mapped below an armed table is not reachable before a fault there; what was mapped
 * armed is not either. */
static void test_mapped_while_armed(void)
{
    struct p2mfast *p2m = pool_start(40);

    CHECK_EQUAL(pool_map(p2m, 0, 8, 0x70, 0), 0);
    CHECK_EQUAL(p2mfast_invalidate_root(p2m), 0);
    CHECK_EQUAL(pool_map(p2m, 8, 8, 0x80, 0), 0);
    CHECK_EQUAL(pool_map(p2m, BLOCK, 8, 0x90, 0), 0);
    CHECK_EQUAL(pool_map(p2m, GIB, 8, 0x90, P2MFAST_ARMED), 0);
    CHECK_EQUAL(faulting_level(p2m, 8), 1);
    CHECK_EQUAL(faulting_level(p2m, BLOCK), 1);
    CHECK_EQUAL(faulting_level(p2m, GIB), 3);
    CHECK_EQUAL(resolve(p2m, 0, P2MFAST_DEPTH_PATH, 0), 1);
    CHECK_EQUAL(reachable_pages(p2m, 0, 2 * BLOCK), 1);
    CHECK_EQUAL(resolve(p2m, GIB + 1, P2MFAST_DEPTH_PATH, 0), 1);
    CHECK_EQUAL(reachable_pages(p2m, GIB, 8), 1);
    CHECK_SOUND(p2m);
}

/* ---- A guest's accesses ---- */

static void check_accesses(unsigned depth, unsigned first, unsigned neighbour)
{
    struct p2mfast *p2m = pool_start(40);
    const uint64_t ipas[] = {5 << 12, 5 << 12, 6 << 12, 900 << 12, 7 << 12, UINT64_C(1) << 40};
    const uint8_t kinds[] = {1, 2, 1, 1, 4, 1};
    uint8_t traps[6];
    uint8_t faults[6];

    CHECK_EQUAL(pool_map(p2m, 0, 7, 0x70, 0), 0);
    CHECK_EQUAL(p2mfast_set_entry(p2m, 7, 1, 0x99, P2MFAST_RAM_RW, P2MFAST_ACCESS_RW, 0), 0);
    CHECK_EQUAL(p2mfast_invalidate_root(p2m), 0);
    CHECK_EQUAL(p2mfast_access_many(p2m, ipas, kinds, 6, 0, depth, 0, traps, faults), 0);
    for (unsigned i = 0; i < 6; i++) {
        CHECK_EQUAL(traps[i], 0);
        CHECK_EQUAL(faults[i], P2MFAST_FAULT_TRANSLATION);
    }
    CHECK_EQUAL(p2mfast_access_many(p2m, ipas, kinds, 6, 1, depth, 0, traps, faults), 0);
    CHECK_EQUAL(traps[0], first);
    CHECK_EQUAL(traps[1], 0);
    CHECK_EQUAL(traps[2], neighbour);
    CHECK_EQUAL(traps[3], 0);
    CHECK_EQUAL(traps[4], neighbour);
    CHECK_EQUAL(traps[5], 0);
    for (unsigned i = 0; i < 3; i++)
        CHECK_EQUAL(faults[i], P2MFAST_FAULT_NONE);
    CHECK_EQUAL(faults[3], P2MFAST_FAULT_TRANSLATION);
    CHECK_EQUAL(faults[4], P2MFAST_FAULT_PERMISSION);
    CHECK_EQUAL(faults[5], P2MFAST_FAULT_TRANSLATION);
    CHECK_SOUND(p2m);
}

static void test_accesses(void)
{
    const uint64_t ipa = 0;
    const uint8_t none = 0;
    uint8_t traps;
    uint8_t faults;

    check_accesses(P2MFAST_DEPTH_LEVEL, 3, 1);
    check_accesses(P2MFAST_DEPTH_PATH, 1, 1);
    CHECK_EQUAL(p2mfast_access_many(pool_start(40), &ipa, &none, 1, 1, P2MFAST_DEPTH_PATH, 0,
                                    &traps, &faults),
                P2MFAST_ERROR_ARGUMENT);
}

/* Many at once; a wrong one among them and nothing is done. */
static void test_resolve_many(void)
{
    struct p2mfast *p2m = pool_start(40);
    uint64_t gfns[] = {3, 5, 600, 3};
    uint8_t resolved[4] = {9, 9, 9, 9};

    CHECK_EQUAL(pool_map(p2m, 0, 8, 0x70, 0), 0);
    CHECK_EQUAL(p2mfast_invalidate_root(p2m), 0);
    gfns[3] = UINT64_C(1) << 28;
    pool_snapshot(p2m);
    CHECK_EQUAL(p2mfast_resolve_translation_faults(p2m, gfns, 4, P2MFAST_DEPTH_PATH, 0, resolved),
                P2MFAST_ERROR_RANGE);
    CHECK_UNCHANGED(p2m);
    gfns[3] = 3;
    CHECK_EQUAL(p2mfast_resolve_translation_faults(p2m, gfns, 4, P2MFAST_DEPTH_PATH, 0, resolved),
                0);
    CHECK(resolved[0] == 1 && resolved[1] == 1 && resolved[2] == 0 && resolved[3] == 1);
    CHECK_EQUAL(reachable_pages(p2m, 0, 8), 2);
    CHECK_EQUAL(pool_stats(p2m).resolved, 3);
    CHECK_SOUND(p2m);
}

void core_track_tests(void)
{
    RUN(test_invalidate_root);
    RUN(test_resolve_level);
    RUN(test_resolve_path);
    RUN(test_fault_around);
    RUN(test_fault_around_an_empty_table);
    RUN(test_fault_around_at_the_end);
    RUN(test_mapped_while_armed);
    RUN(test_accesses);
    RUN(test_resolve_many);
}
