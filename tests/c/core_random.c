/*
 * Any order of operations, against three arrays: what is mapped, what must be reachable, and what
 * may be. The platform watches break-before-make and its own contract all the while.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "core_tests.h"
#include "pool.h"

#define BLOCK 512u
#define GIB (BLOCK * BLOCK)
/* Around an entry of the root, so that two of them take part. */
#define SPAN (6 * BLOCK)
#define FIRST (GIB - 3 * BLOCK)
#define OPERATIONS 1500
#define NONE P2MFAST_INVALID_MFN

static struct p2mfast *p2m;
static uint64_t seed;
/* By page from FIRST on. */
static struct {
    uint64_t mfn;
    uint8_t type;
    bool touched; /* must be reachable: resolved, and not collected or armed since */
    bool may;     /* may be reachable */
} pages[SPAN];
static uint64_t foreign_taken; /* references that mappings took */
static uint64_t next_mfn;      /* never the same twice, so that no reference is kept */
static uint64_t cursor;        /* of the harvest under way */

static uint64_t below(uint64_t limit)
{
    return harness_below(&seed, limit);
}

static bool is_foreign(unsigned type)
{
    return type == P2MFAST_MAP_FOREIGN_RW || type == P2MFAST_MAP_FOREIGN_RO;
}

static unsigned random_type(void)
{
    static const unsigned types[] = {P2MFAST_RAM_RW,         P2MFAST_RAM_RW,
                                     P2MFAST_RAM_RO,         P2MFAST_MMIO_DIRECT_DEV,
                                     P2MFAST_MAP_FOREIGN_RW, P2MFAST_MAP_FOREIGN_RO};

    return types[below(6)];
}

static void note(uint64_t at, uint64_t nr, uint64_t mfn, unsigned type, unsigned flags)
{
    for (uint64_t i = 0; i < nr; i++) {
        pages[at + i].mfn = mfn == NONE ? NONE : mfn + i;
        pages[at + i].type = mfn == NONE ? P2MFAST_INVALID : (uint8_t)type;
        pages[at + i].touched = false;
        pages[at + i].may = mfn != NONE && !(flags & P2MFAST_ARMED);
    }
    if (mfn != NONE && is_foreign(type))
        foreign_taken += nr;
}

/* ---- Operations ---- */

static void set_range(bool remove)
{
    uint64_t at = below(SPAN);
    uint64_t nr = 1 + below(below(2) ? 20 : 2 * BLOCK);
    uint64_t mfn = next_mfn += 4 * BLOCK;
    unsigned flags = (unsigned)below(3);
    unsigned type = random_type();

    if (below(3) == 0) { /* whole blocks */
        at = at / BLOCK * BLOCK;
        nr = (nr / BLOCK + 1) * BLOCK;
    } else {
        mfn += at % BLOCK;
    }
    nr = nr < SPAN - at ? nr : SPAN - at;
    if (remove)
        mfn = NONE;
    CHECK_EQUAL(p2mfast_set_entry(p2m, FIRST + at, nr, mfn, type, P2MFAST_ACCESS_RWX, flags), 0);
    note(at, nr, mfn, type, flags);
}

static void set_scattered(void)
{
    uint64_t gfns[12];
    uint64_t mfns[12];
    size_t n = 1 + below(12);
    unsigned type = random_type();

    /* Duplicates of a foreign batch: see core_foreign.c. */
    for (size_t i = 0; i < n; i++) {
        uint64_t at = is_foreign(type) ? i * 97 % SPAN : below(SPAN / 8) * 8;

        gfns[i] = FIRST + at;
        mfns[i] = below(4) ? ++next_mfn : NONE;
        note(at, 1, mfns[i], type, 0);
    }
    CHECK_EQUAL(p2mfast_set_entries(p2m, gfns, mfns, n, type, P2MFAST_ACCESS_RWX, 0), 0);
}

static void arm(void)
{
    CHECK_EQUAL(p2mfast_invalidate_root(p2m), 0);
    for (unsigned i = 0; i < SPAN; i++)
        pages[i].touched = pages[i].may = false;
}

/* The mapping of a page is reachable, and what is mapped of the group around it may be. */
static void note_touched(uint64_t at, unsigned order)
{
    p2mfast_entry_t entry;

    CHECK_EQUAL(p2mfast_get_entry(p2m, FIRST + at, &entry), 0);
    for (uint64_t i = 0; i < UINT64_C(1) << entry.order; i++)
        pages[(at >> entry.order << entry.order) + i].touched = true;
    order = order > entry.order ? order : entry.order;
    for (uint64_t i = 0; i < UINT64_C(1) << order; i++) {
        uint64_t in_group = ((FIRST + at) >> order << order) + i - FIRST;
        p2mfast_entry_t around;

        if (in_group >= SPAN || pages[in_group].mfn == NONE)
            continue;
        /* A block at the group's border comes whole. */
        CHECK_EQUAL(p2mfast_get_entry(p2m, FIRST + in_group, &around), 0);
        for (uint64_t j = 0; j < UINT64_C(1) << around.order; j++)
            pages[(in_group >> around.order << around.order) + j].may = true;
    }
}

static void touch(void)
{
    uint64_t at = below(SPAN);
    bool mapped = pages[at].mfn != NONE;
    unsigned order = below(3) ? 0 : (unsigned)below(11);

    if (below(2)) {
        CHECK_EQUAL(p2mfast_resolve_translation_fault(p2m, FIRST + at, P2MFAST_DEPTH_PATH, order),
                    mapped);
    } else {
        order = order < 9 ? order : 9;
        for (unsigned i = 0; i < 4 && !pool_reachable(p2m, FIRST + at); i++)
            p2mfast_resolve_translation_fault(p2m, FIRST + at, P2MFAST_DEPTH_LEVEL, order);
    }
    CHECK_EQUAL(pool_reachable(p2m, FIRST + at), mapped);
    if (mapped)
        note_touched(at, order);
}

static void harvest_piece(void)
{
    p2mfast_run_t runs[64];
    size_t n;
    int more = p2mfast_harvest(p2m, &cursor, runs, 1 + below(64), &n);

    CHECK(more == 0 || more == 1);
    if (more != 1)
        cursor = 0;
    /* What is no RAM is armed along with the rest, and nobody has to know. */
    for (unsigned i = 0; i < SPAN; i++)
        pages[i].touched = pages[i].touched && pages[i].type != P2MFAST_MMIO_DIRECT_DEV;
    for (size_t i = 0; i < n; i++) {
        for (uint64_t j = 0; j < runs[i].nr; j++) {
            uint64_t at = runs[i].gfn - FIRST + j;

            if (!CHECK(at < SPAN))
                return;
            CHECK_EQUAL(runs[i].mfn + j, pages[at].mfn);
            CHECK(pages[at].type != P2MFAST_MMIO_DIRECT_DEV);
            CHECK(pages[at].may);
            pages[at].touched = pages[at].may = false;
        }
    }
}

static void relinquish(void)
{
    while (p2mfast_relinquish(p2m, 1 + below(2000)) == 1)
        ;
    for (unsigned i = 0; i < SPAN; i++)
        note(i, 1, NONE, 0, 0);
}

/* ---- */

static void check_pages(void)
{
    for (unsigned i = 0; i < SPAN; i++) {
        p2mfast_entry_t entry;
        p2mfast_translation_t result;

        CHECK_EQUAL(p2mfast_get_entry(p2m, FIRST + i, &entry), 0);
        CHECK_EQUAL(entry.mfn, pages[i].mfn);
        CHECK_EQUAL(entry.type, pages[i].type);
        CHECK(entry.reachable || !pages[i].touched);
        CHECK(!entry.reachable || pages[i].may);
        CHECK_EQUAL(p2mfast_translate(p2m, (uint64_t)(FIRST + i) << 12, 1, &result), 0);
        CHECK_EQUAL(!result.fault, entry.reachable);
    }
}

static void check_references(void)
{
    uint64_t mapped = 0;

    for (size_t i = 0; i < pool.removals; i++)
        foreign_taken -= pool.removed[i].nr;
    pool.removals = 0;
    for (unsigned i = 0; i < SPAN; i++)
        mapped += is_foreign(pages[i].type);
    CHECK_EQUAL(foreign_taken, mapped);
}

static void operate(void)
{
    switch (below(20)) {
    case 0:
    case 1:
    case 2:
    case 3:
        set_range(false);
        break;
    case 4:
    case 5:
        set_range(true);
        break;
    case 6:
        set_scattered();
        break;
    case 7:
        arm();
        break;
    case 8:
    case 9:
    case 10:
        harvest_piece();
        break;
    case 11:
        if (!below(10))
            relinquish();
        break;
    default:
        touch();
    }
}

static void test_random_operations(void)
{
    static const unsigned ipa_sizes[] = {32, 40, 48};

    for (unsigned i = 0; i < 3; i++) {
        p2m = pool_start(ipa_sizes[i]);
        seed = 6 + i;
        foreign_taken = next_mfn = cursor = 0;
        next_mfn = 4 * GIB;
        for (unsigned at = 0; at < SPAN; at++)
            note(at, 1, NONE, 0, 0);
        for (unsigned done = 0; done < OPERATIONS; done++) {
            operate();
            CHECK_SOUND(p2m);
            check_references();
            if (done % 16 == 0)
                check_pages();
        }
        check_pages();
        CHECK_EQUAL(pool_unmap(p2m, 0, UINT64_C(1) << (ipa_sizes[i] - 12)), 0);
        /* What leads to 512 GiB stays, as in Xen. */
        CHECK_EQUAL(pool.in_use, p2mfast_root_level(p2m) == 0);
        CHECK_SOUND(p2m);
    }
}

void core_random_tests(void)
{
    RUN(test_random_operations);
}
