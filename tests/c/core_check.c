/*
 * p2mfast_check finds what was planted, and names it; the listings show what is there.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "core_tests.h"
#include "pool.h"

#define BLOCK 512u
#define GIB (BLOCK * BLOCK)

/* Two pages in tables of their own, blocks of both sizes, a foreign page. */
static struct p2mfast *populate(unsigned ipa_bits)
{
    struct p2mfast *p2m = pool_start(ipa_bits);

    CHECK_EQUAL(pool_map(p2m, 3, 1, 0x70, 0), 0);
    CHECK_EQUAL(pool_map(p2m, BLOCK + 3, 1, 0x80, P2MFAST_ARMED), 0);
    CHECK_EQUAL(pool_map(p2m, 4 * BLOCK, BLOCK, 0x100000, 0), 0);
    CHECK_EQUAL(pool_map(p2m, GIB, GIB, 0x200000, 0), 0);
    CHECK_EQUAL(p2mfast_set_entry(p2m, 2 * GIB + 7, 1, 0x90, P2MFAST_MAP_FOREIGN_RW, 7, 0), 0);
    CHECK_SOUND(p2m);
    pool_stop_watching();
    return p2m;
}

#define ANY_VALUE UINT64_MAX

/* Among the findings is this one. */
static void check_finds(struct p2mfast *p2m, enum p2mfast_finding_kind kind, int level,
                        uint64_t gfn, uint64_t value)
{
    p2mfast_finding_t findings[64];
    size_t n = pool_findings(p2m, findings, 64);
    bool found = false;

    for (size_t i = 0; i < n && i < 64; i++)
        found =
            found || (findings[i].kind == (int32_t)kind && findings[i].level == level &&
                      findings[i].gfn == gfn && (value == ANY_VALUE || findings[i].value == value));
    CHECK(found);
}

/* This word in place of the one for gfn is found; with the old one back all is sound. */
static void check_planted(struct p2mfast *p2m, int level, uint64_t gfn, uint64_t planted,
                          enum p2mfast_finding_kind kind, uint64_t value)
{
    uint64_t *word = pool_word(p2m, level, gfn);
    uint64_t old;

    if (!CHECK(word))
        return;
    old = *word;
    *word = planted;
    check_finds(p2m, kind, level, gfn >> (9 * (3 - level)) << (9 * (3 - level)), value);
    *word = old;
    CHECK_SOUND(p2m);
}

static void test_table_pointers(void)
{
    struct p2mfast *p2m = populate(48);
    const uint64_t address = UINT64_C(0x0000fffffffff000);

    for (int level = 0; level < 3; level++) {
        uint64_t pointer = *pool_word(p2m, level, 3);
        uint64_t rest = pointer & ~address;

        check_planted(p2m, level, 3, rest | (POOL_BASE_MFN + POOL_FRAMES) << 12,
                      P2MFAST_FINDING_OUTSIDE, POOL_BASE_MFN + POOL_FRAMES);
        check_planted(p2m, level, 3, rest | (POOL_BASE_MFN - 1) << 12, P2MFAST_FINDING_OUTSIDE,
                      POOL_BASE_MFN - 1);
        /* To the root, and from another place as well. */
        check_planted(p2m, level, 3, rest | (POOL_BASE_MFN + p2m->root_frame) << 12,
                      P2MFAST_FINDING_TABLE_TWICE, POOL_BASE_MFN + p2m->root_frame);
        check_planted(p2m, level,
                      level == 2   ? BLOCK
                      : level == 1 ? 2 * GIB
                                   : UINT64_C(1) << 27,
                      pointer, P2MFAST_FINDING_TABLE_TWICE, (pointer & address) >> 12);
        /* Attributes that no operation writes. */
        check_planted(p2m, level, 3, pointer ^ 1 << 6, P2MFAST_FINDING_RESERVED, ANY_VALUE);
        check_planted(p2m, level, 3, pointer ^ UINT64_C(3) << 55, P2MFAST_FINDING_RESERVED,
                      pointer ^ UINT64_C(3) << 55);
        check_planted(p2m, level, 3, pointer | UINT64_C(1) << 63, P2MFAST_FINDING_RESERVED,
                      pointer | UINT64_C(1) << 63);
        /* Armed is fine. */
        *pool_word(p2m, level, 3) &= ~UINT64_C(1);
        CHECK_SOUND(p2m);
        *pool_word(p2m, level, 3) |= 1;
    }
}

static void test_second_root_page(void)
{
    struct p2mfast *p2m = populate(40);
    uint64_t pointer = *pool_word(p2m, 1, 3);
    uint64_t second = POOL_BASE_MFN + p2m->root_frame + 1;

    check_planted(p2m, 1, 3, (pointer & ~UINT64_C(0x0000fffffffff000)) | second << 12,
                  P2MFAST_FINDING_TABLE_TWICE, second);
}

static void test_leaves(void)
{
    struct p2mfast *p2m = populate(48);
    uint64_t page = *pool_word(p2m, 3, 3);
    uint64_t block = *pool_word(p2m, 2, 4 * BLOCK);
    uint64_t big = *pool_word(p2m, 1, GIB);
    static const unsigned reserved[] = {48, 51, 52, 53, 59, 62, 63, 11};

    for (unsigned i = 0; i < sizeof(reserved) / sizeof(reserved[0]); i++) {
        uint64_t bit = UINT64_C(1) << reserved[i];

        check_planted(p2m, 3, 3, page | bit, P2MFAST_FINDING_RESERVED, page | bit);
        check_planted(p2m, 2, 4 * BLOCK, block | bit, P2MFAST_FINDING_RESERVED, block | bit);
    }
    /* Bit 1 clear is no page, and there is no block at level 0. */
    check_planted(p2m, 3, 3, page & ~UINT64_C(2), P2MFAST_FINDING_RESERVED, page & ~UINT64_C(2));
    check_planted(p2m, 0, UINT64_C(1) << 27, block & ~UINT64_C(0xfffffffff000),
                  P2MFAST_FINDING_RESERVED, block & ~UINT64_C(0xfffffffff000));
    /* A word that is valid and has no type. */
    check_planted(p2m, 3, 4, 3, P2MFAST_FINDING_RESERVED, 3);
    check_planted(p2m, 2, 4 * BLOCK, block | 1 << 12, P2MFAST_FINDING_MISALIGNED, block | 1 << 12);
    check_planted(p2m, 2, 4 * BLOCK, block | 1 << 20, P2MFAST_FINDING_MISALIGNED, block | 1 << 20);
    check_planted(p2m, 1, GIB, big | 1 << 29, P2MFAST_FINDING_MISALIGNED, big | 1 << 29);
    check_planted(p2m, 1, GIB, big | 1 << 12, P2MFAST_FINDING_MISALIGNED, big | 1 << 12);
    /* One that no statistics know of. */
    *pool_word(p2m, 3, 9) = page;
    check_finds(p2m, P2MFAST_FINDING_MAPPINGS, 3, 0, 4);
    *pool_word(p2m, 3, 9) = 0;
    CHECK_SOUND(p2m);
}

static void test_bounds(void)
{
    struct p2mfast *p2m = populate(32);
    uint64_t block = *pool_word(p2m, 2, 4 * BLOCK);

    p2m->lowest_mapped_gfn = 4;
    check_finds(p2m, P2MFAST_FINDING_BOUNDS, 3, 3, ANY_VALUE);
    p2m->lowest_mapped_gfn = 3;
    p2m->max_mapped_gfn = 2 * GIB + 6;
    check_finds(p2m, P2MFAST_FINDING_BOUNDS, 3, 2 * GIB + 7, ANY_VALUE);
    p2m->max_mapped_gfn = 5 * BLOCK - 2;
    check_finds(p2m, P2MFAST_FINDING_BOUNDS, 2, 4 * BLOCK, block);
    p2m->max_mapped_gfn = 2 * GIB + 7;
    CHECK_SOUND(p2m);
    /* 32 bits use four words of the root. */
    p2m->root[4] = block;
    check_finds(p2m, P2MFAST_FINDING_BEYOND, 1, 4 * GIB, block);
    p2m->root[4] = 0;
    p2m->root[511] = 2;
    check_finds(p2m, P2MFAST_FINDING_BEYOND, 1, (uint64_t)511 * GIB, 2);
    p2m->root[511] = 0;
    CHECK_SOUND(p2m);
}

static void test_statistics(void)
{
    struct p2mfast *p2m = populate(40);

    for (int level = 0; level < 4; level++) {
        uint64_t was = p2m->stats.mappings[level]++;

        check_finds(p2m, P2MFAST_FINDING_MAPPINGS, level, 0, was);
        p2m->stats.mappings[level] = was;
    }
    p2m->stats.tables--;
    check_finds(p2m, P2MFAST_FINDING_TABLES, 0, 0, p2m->stats.tables + 1);
    p2m->stats.tables++;
    p2m->counted++;
    check_finds(p2m, P2MFAST_FINDING_COUNTED, 0, 0, 1);
    p2m->counted--;
    CHECK_SOUND(p2m);
    /* All are counted, as many as fit are written. */
    p2m->stats.tables++;
    p2m->counted++;
    CHECK_EQUAL(pool_findings(p2m, NULL, 0), 2);
    p2m->stats.tables--;
    p2m->counted--;
    CHECK_SOUND(p2m);
}

/* ---- Listings ---- */

static void test_words(void)
{
    struct p2mfast *p2m = populate(40);
    p2mfast_word_t words[4];

    CHECK_EQUAL(p2mfast_words(p2m, 0, words, 4), 0);
    CHECK_EQUAL(p2mfast_words(p2m, 4, words, 4), 0);
    CHECK_EQUAL(p2mfast_words(p2m, 1, words, 4), 3);
    CHECK(words[1].gfn == GIB && words[1].level == 1 && words[1].raw == *pool_word(p2m, 1, GIB));
    CHECK_EQUAL(p2mfast_words(p2m, 2, words, 4), 4);
    CHECK(words[2].gfn == 4 * BLOCK && words[2].raw == *pool_word(p2m, 2, 4 * BLOCK));
    CHECK(words[3].gfn == 2 * GIB && words[3].level == 2);
    /* More than fit. */
    words[2].gfn = 99;
    CHECK_EQUAL(p2mfast_words(p2m, 3, words, 2), 3);
    CHECK(words[0].gfn == 3 && words[1].gfn == BLOCK + 3 && words[2].gfn == 99);
}

static void test_mapped_runs(void)
{
    struct p2mfast *p2m = pool_start(40);
    p2mfast_mapped_run_t runs[4];

    CHECK_EQUAL(p2mfast_mapped_runs(p2m, runs, 4), 0);
    /* Over pages, blocks and tables, armed or not; the type parts, and a gap on either side. */
    CHECK_EQUAL(pool_map(p2m, BLOCK - 5, 5 + 2 * BLOCK, 0x100000 - 5, 0), 0);
    CHECK_EQUAL(pool_map(p2m, 3 * BLOCK, 7, 0x100000 + 2 * BLOCK, P2MFAST_ARMED), 0);
    CHECK_EQUAL(p2mfast_set_entry(p2m, 3 * BLOCK + 7, 2, 0x100407, P2MFAST_RAM_RO, 7, 0), 0);
    CHECK_EQUAL(p2mfast_set_entry(p2m, 3 * BLOCK + 9, 2, 0x200409, P2MFAST_RAM_RO, 7, 0), 0);
    CHECK_EQUAL(pool_map(p2m, GIB, 1, 0x77, 0), 0);
    runs[3].nr = 99;
    CHECK_EQUAL(p2mfast_mapped_runs(p2m, runs, 3), 4);
    CHECK_EQUAL(runs[3].nr, 99);
    CHECK_EQUAL(p2mfast_mapped_runs(p2m, runs, 4), 4);
    CHECK(runs[0].gfn == BLOCK - 5 && runs[0].mfn == 0x100000 - 5);
    CHECK(runs[0].nr == 2 * BLOCK + 12 && runs[0].type == P2MFAST_RAM_RW);
    CHECK(runs[1].gfn == 3 * BLOCK + 7 && runs[1].mfn == 0x100407 && runs[1].nr == 2);
    CHECK_EQUAL(runs[1].type, P2MFAST_RAM_RO);
    CHECK(runs[2].gfn == 3 * BLOCK + 9 && runs[2].mfn == 0x200409 && runs[2].nr == 2);
    CHECK(runs[3].gfn == GIB && runs[3].mfn == 0x77 && runs[3].nr == 1);
}

void core_check_tests(void)
{
    RUN(test_table_pointers);
    RUN(test_second_root_page);
    RUN(test_leaves);
    RUN(test_bounds);
    RUN(test_statistics);
    RUN(test_words);
    RUN(test_mapped_runs);
}
