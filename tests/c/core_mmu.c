/*
 * The MMU's view, descriptor by descriptor as written by hand, against a walk of the test's own;
 * and corrupt tables, which lead nowhere but to a fault.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "core_tests.h"
#include "pool.h"

#define BLOCK 512u
#define GIB (BLOCK * BLOCK)

/* A valid page of RAM with every right, in numbers, so that descriptor.h is checked as well. */
#define PAGE UINT64_C(0x00800000000007ff)
#define BLOCK_LEAF UINT64_C(0x00800000000007fd)
#define POINTER PAGE
#define ADDRESS UINT64_C(0x0000fffffffff000)

/* ---- A walk as the architecture says it (Arm ARM DDI 0487, AArch64.S2Walk) ---- */

/* Returns whether the address is defined: a block whose low address bits are not 0 is tested by
 * itself. */
static bool reference(const struct p2mfast *p2m, uint64_t ipa, unsigned access,
                      p2mfast_translation_t *result)
{
    const uint64_t *table = p2m->root;
    uint64_t words = UINT64_C(512) * p2m->geometry.root_pages;

    *result = (p2mfast_translation_t){0};
    for (int level = p2m->geometry.root_level;; level++, words = 512) {
        unsigned shift = 12 + 9 * (3 - (unsigned)level);
        uint64_t word = table[(ipa >> shift) % words];
        uint64_t offset = ipa & ((UINT64_C(1) << shift) - 1);
        bool leaf = level == 3 || !(word & 2);

        result->level = (int8_t)level;
        result->fault = P2MFAST_FAULT_TRANSLATION;
        if (!(word & 1) || (!(word & 2) && (level == 3 || level == 0)))
            return true;
        result->fault = P2MFAST_FAULT_ADDRESS_SIZE;
        if ((word & ADDRESS) >> p2m->geometry.pa_bits)
            return true;
        if (!leaf) {
            uint64_t frame = ((word & ADDRESS) >> 12) - p2m->platform.base_mfn;

            result->fault = P2MFAST_FAULT_EXTERNAL;
            if (frame >= p2m->platform.frames)
                return true;
            table = p2m->platform.memory + frame * 512;
            continue;
        }
        result->fault = P2MFAST_FAULT_ACCESS_FLAG;
        if (!(word >> 10 & 1))
            return true;
        result->fault = P2MFAST_FAULT_PERMISSION;
        if ((access & 1 && !(word >> 6 & 1)) || (access & 2 && !(word >> 7 & 1)) ||
            (access & 4 && word >> 54 & 1))
            return true;
        result->fault = P2MFAST_FAULT_NONE;
        result->pa = (word & ADDRESS) >> shift << shift | offset;
        result->attrs = word & ~ADDRESS;
        return !((word & ADDRESS) & ((UINT64_C(1) << shift) - 1));
    }
}

static p2mfast_translation_t check_agrees(const struct p2mfast *p2m, uint64_t ipa, unsigned access)
{
    p2mfast_translation_t got;
    p2mfast_translation_t want;
    bool defined = reference(p2m, ipa, access, &want);

    CHECK_EQUAL(p2mfast_translate(p2m, ipa, access, &got), 0);
    CHECK_EQUAL(got.fault, want.fault);
    CHECK_EQUAL(got.attrs, want.attrs);
    if (defined)
        CHECK_EQUAL(got.pa, want.pa);
    /* Where an abort on the walk is reported, its level is not compared. */
    if (want.fault != P2MFAST_FAULT_EXTERNAL)
        CHECK_EQUAL(got.level, want.level);
    return got;
}

/* ---- Faults, one at a time ---- */

static struct p2mfast *start_with(unsigned ipa_bits, unsigned pa_bits)
{
    p2mfast_platform_t platform = pool_platform(POOL_FRAMES);
    p2mfast_config_t config = pool_config(ipa_bits);
    struct p2mfast *p2m;

    config.pa_bits = pa_bits;
    p2m = pool_init(&platform, &config);
    pool_stop_watching();
    return p2m;
}

static void check_fault(const struct p2mfast *p2m, uint64_t gfn, unsigned access,
                        enum p2mfast_fault fault, int level)
{
    p2mfast_translation_t result = check_agrees(p2m, gfn << 12 | 0x678, access);

    CHECK_EQUAL(result.fault, fault);
    CHECK_EQUAL(result.level, level);
    if (fault) {
        CHECK_EQUAL(result.pa, 0);
        CHECK_EQUAL(result.attrs, 0);
    }
}

static void test_translation_faults(void)
{
    struct p2mfast *p2m = start_with(48, 48);
    p2mfast_translation_t result;

    CHECK_EQUAL(pool_map(p2m, 0, 1, 0x70, 0), 0);
    CHECK_EQUAL(pool_map(p2m, BLOCK, BLOCK, 0x100000, 0), 0);
    CHECK_EQUAL(pool_map(p2m, GIB, GIB, 0x200000, 0), 0);
    check_fault(p2m, 0, 7, P2MFAST_FAULT_NONE, 3);
    check_fault(p2m, 1, 1, P2MFAST_FAULT_TRANSLATION, 3);
    check_fault(p2m, 2 * BLOCK, 1, P2MFAST_FAULT_TRANSLATION, 2);
    check_fault(p2m, 2 * GIB, 1, P2MFAST_FAULT_TRANSLATION, 1);
    check_fault(p2m, UINT64_C(1) << 27, 1, P2MFAST_FAULT_TRANSLATION, 0);
    /* Beyond the input size: level 0. */
    CHECK_EQUAL(p2mfast_translate(p2m, UINT64_C(1) << 48, 1, &result), 0);
    CHECK(result.fault == P2MFAST_FAULT_TRANSLATION && result.level == 0 && !result.pa);
    /* Armed, at each level, leaf or not. */
    for (int level = 3; level >= 0; level--) {
        *pool_word(p2m, level, 0) &= ~UINT64_C(1);
        check_fault(p2m, 0, 1, P2MFAST_FAULT_TRANSLATION, level);
    }
    for (int level = 0; level < 3; level++)
        *pool_word(p2m, level, 0) |= 1;
    *pool_word(p2m, 2, BLOCK) &= ~UINT64_C(1);
    check_fault(p2m, BLOCK + 5, 1, P2MFAST_FAULT_TRANSLATION, 2);
    *pool_word(p2m, 1, GIB) &= ~UINT64_C(1);
    check_fault(p2m, 2 * GIB - 1, 1, P2MFAST_FAULT_TRANSLATION, 1);
}

static void test_reserved_encodings(void)
{
    struct p2mfast *p2m = start_with(48, 48);

    CHECK_EQUAL(pool_map(p2m, 0, 1, 0x70, 0), 0);
    *pool_word(p2m, 3, 0) = PAGE | 0x70000;
    check_fault(p2m, 0, 7, P2MFAST_FAULT_NONE, 3);
    /* Bit 1 clear: no page at level 3, no block at level 0. */
    *pool_word(p2m, 3, 0) = BLOCK_LEAF | 0x70000;
    check_fault(p2m, 0, 1, P2MFAST_FAULT_TRANSLATION, 3);
    *pool_word(p2m, 0, UINT64_C(1) << 27) = BLOCK_LEAF;
    check_fault(p2m, UINT64_C(1) << 27, 1, P2MFAST_FAULT_TRANSLATION, 0);
    /* Blocks of 1 GiB and 2 MiB are blocks. */
    *pool_word(p2m, 1, GIB) = BLOCK_LEAF | UINT64_C(0x80000000);
    check_fault(p2m, GIB + 77, 7, P2MFAST_FAULT_NONE, 1);
    *pool_word(p2m, 2, BLOCK) = BLOCK_LEAF | 0x600000;
    check_fault(p2m, BLOCK + 77, 7, P2MFAST_FAULT_NONE, 2);
    /* The type and other bits that are the software's say nothing to the MMU. */
    *pool_word(p2m, 3, 0) = (PAGE & ~(UINT64_C(0xf) << 55)) | 0x70000;
    check_fault(p2m, 0, 7, P2MFAST_FAULT_NONE, 3);
    *pool_word(p2m, 2, 0) &= ~(UINT64_C(0xf) << 55);
    *pool_word(p2m, 1, 0) |= UINT64_C(1) << 63 | UINT64_C(1) << 59;
    check_fault(p2m, 1, 1, P2MFAST_FAULT_TRANSLATION, 3);
}

static void test_access_flag_and_permission(void)
{
    struct p2mfast *p2m = start_with(40, 48);
    uint64_t *words[2];

    CHECK_EQUAL(pool_map(p2m, 0, 1, 0x70, 0), 0);
    CHECK_EQUAL(pool_map(p2m, BLOCK, BLOCK, 0x100000, 0), 0);
    words[0] = pool_word(p2m, 3, 0);
    words[1] = pool_word(p2m, 2, BLOCK);
    for (unsigned i = 0; i < 2; i++) {
        uint64_t gfn = i * BLOCK;
        int level = 3 - (int)i;

        *words[i] &= ~(UINT64_C(1) << 10);
        check_fault(p2m, gfn, 1, P2MFAST_FAULT_ACCESS_FLAG, level);
        /* It comes before permission. */
        *words[i] &= ~(UINT64_C(1) << 7);
        check_fault(p2m, gfn, 2, P2MFAST_FAULT_ACCESS_FLAG, level);
        *words[i] |= 1 << 10;
        check_fault(p2m, gfn, 2, P2MFAST_FAULT_PERMISSION, level);
        check_fault(p2m, gfn, 3, P2MFAST_FAULT_PERMISSION, level);
        check_fault(p2m, gfn, 1, P2MFAST_FAULT_NONE, level);
        check_fault(p2m, gfn, 5, P2MFAST_FAULT_NONE, level);
        *words[i] &= ~(UINT64_C(1) << 6);
        check_fault(p2m, gfn, 1, P2MFAST_FAULT_PERMISSION, level);
        check_fault(p2m, gfn, 4, P2MFAST_FAULT_NONE, level);
        *words[i] |= UINT64_C(1) << 54;
        check_fault(p2m, gfn, 4, P2MFAST_FAULT_PERMISSION, level);
        /* Armed comes before all. */
        *words[i] &= ~UINT64_C(1);
        check_fault(p2m, gfn, 4, P2MFAST_FAULT_TRANSLATION, level);
    }
}

static void test_address_size(void)
{
    static const unsigned sizes[] = {32, 36, 40, 42, 44, 48};

    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct p2mfast *p2m = start_with(40, sizes[i]);
        uint64_t limit = UINT64_C(1) << (sizes[i] - 12);

        CHECK_EQUAL(pool_map(p2m, 0, 1, limit - 1, 0), 0);
        CHECK_EQUAL(pool_map(p2m, BLOCK, BLOCK, limit - BLOCK, 0), 0);
        check_fault(p2m, 0, 7, P2MFAST_FAULT_NONE, 3);
        check_fault(p2m, 2 * BLOCK - 1, 7, P2MFAST_FAULT_NONE, 2);
        if (sizes[i] == 48)
            continue;
        CHECK_EQUAL(pool_map(p2m, 1, 1, limit, 0), 0);
        CHECK_EQUAL(pool_map(p2m, 2 * BLOCK, BLOCK, limit, 0), 0);
        CHECK_EQUAL(pool_map(p2m, GIB, GIB, limit, 0), 0);
        check_fault(p2m, 1, 1, P2MFAST_FAULT_ADDRESS_SIZE, 3);
        check_fault(p2m, 3 * BLOCK - 1, 1, P2MFAST_FAULT_ADDRESS_SIZE, 2);
        check_fault(p2m, GIB, 1, P2MFAST_FAULT_ADDRESS_SIZE, 1);
        /* It comes before the access flag; software looks at the frame all the same. */
        *pool_word(p2m, 3, 1) &= ~(UINT64_C(1) << 10);
        check_fault(p2m, 1, 1, P2MFAST_FAULT_ADDRESS_SIZE, 3);
        CHECK_EQUAL(pool_mfn(p2m, 1), limit);
        /* A table's address as well. */
        *pool_word(p2m, 2, 0) |= limit << 12;
        check_fault(p2m, 0, 1, P2MFAST_FAULT_ADDRESS_SIZE, 2);
    }
}

/* A table outside the table memory: no walk goes there. */
static void test_external(void)
{
    static const uint64_t outside[] = {0, POOL_BASE_MFN - 1, POOL_BASE_MFN + POOL_FRAMES,
                                       (UINT64_C(1) << 36) - 1};

    for (unsigned i = 0; i < sizeof(outside) / sizeof(outside[0]); i++) {
        for (int level = 0; level < 3; level++) {
            struct p2mfast *p2m = start_with(48, 48);
            p2mfast_entry_t entry;

            CHECK_EQUAL(pool_map(p2m, 0, 1, 0x70, 0), 0);
            *pool_word(p2m, level, 0) = POINTER | outside[i] << 12;
            CHECK_EQUAL(check_agrees(p2m, 0, 1).fault, P2MFAST_FAULT_EXTERNAL);
            CHECK_EQUAL(p2mfast_get_entry(p2m, 0, &entry), 0);
            CHECK_EQUAL(entry.mfn, P2MFAST_INVALID_MFN);
            CHECK_EQUAL(entry.type, P2MFAST_INVALID);
            CHECK_EQUAL(entry.order, 9 * (3 - level));
        }
    }
}

/* The address bits of a block below its size are RES0: the MMU takes those of the input
 * (AArch64.S2Walk ends in StageOA, which joins base and input at the block's size). */
static void test_misaligned_block(void)
{
    struct p2mfast *p2m = start_with(40, 48);
    p2mfast_translation_t result;

    CHECK_EQUAL(pool_map(p2m, 0, BLOCK, 0x200, 0), 0);
    *pool_word(p2m, 2, 0) = BLOCK_LEAF | 0x201000;
    CHECK_EQUAL(p2mfast_translate(p2m, 0x3456, 1, &result), 0);
    CHECK_EQUAL(result.fault, P2MFAST_FAULT_NONE);
    CHECK_EQUAL(result.pa, 0x203456);
}

/* ---- Random tables ---- */

#define FRAMES 16u /* of POOL_FRAMES; the rest is not the P2M's */
/* What the others hold: whoever reads there finds a page that can be nowhere else. */
#define POISON UINT64_C(0xbadbadbad)

static uint64_t random_word(uint64_t *seed)
{
    uint64_t frame = harness_below(seed, FRAMES);
    uint64_t random = harness_random(seed);

    switch (random >> 60) {
    case 0:
    case 1:
        return 0;
    case 2:
        return random << 7;
    case 3:
        return random & ~(UINT64_C(0xf) << 44);
    case 4:
        return PAGE | (random & UINT64_C(0xffffff000));
    case 5:
        return BLOCK_LEAF | (random & UINT64_C(0xfffc0000000));
    case 6:
        return (BLOCK_LEAF | (random & UINT64_C(0xffffe00000))) & ~(UINT64_C(1) << (random & 63));
    case 7: /* just outside */
        return POINTER | (POOL_BASE_MFN + (random & 1 ? FRAMES : -UINT64_C(1))) << 12;
    case 8:
        return POINTER | (POOL_BASE_MFN + (random & 0xff)) << 12;
    case 9:
        return (POINTER & ~UINT64_C(1)) | (POOL_BASE_MFN + frame) << 12;
    default:
        return POINTER | (POOL_BASE_MFN + frame) << 12;
    }
}

static void check_random_tree(const struct p2mfast *p2m, uint64_t *seed)
{
    uint64_t limit = p2m->geometry.gfn_limit;

    for (unsigned i = 0; i < 400; i++) {
        uint64_t ipa = harness_below(seed, limit) << 12 | (i & 0xfff);
        p2mfast_entry_t entry;

        check_agrees(p2m, ipa, 1 + i % 7);
        CHECK_EQUAL(p2mfast_get_entry(p2m, ipa >> 12, &entry), 0);
        CHECK(entry.mfn != POISON);
        CHECK(entry.type || entry.mfn == P2MFAST_INVALID_MFN);
        CHECK(entry.order == 0 || entry.order == 9 || entry.order == 18 || entry.order == 27);
    }
}

static void test_random_trees(void)
{
    static const unsigned ipa_sizes[] = {32, 40, 42, 48};
    static const unsigned pa_sizes[] = {32, 40, 48};
    static p2mfast_finding_t findings[16];
    uint64_t seed = 5;

    for (unsigned tree = 0; tree < 240; tree++) {
        p2mfast_platform_t platform = pool_platform(FRAMES);
        p2mfast_config_t config = pool_config(ipa_sizes[tree % 4]);
        struct p2mfast *p2m;

        config.pa_bits = pa_sizes[tree % 3];
        p2m = pool_init(&platform, &config);
        pool_stop_watching();
        p2m->lowest_mapped_gfn = 0;
        p2m->max_mapped_gfn = p2m->geometry.gfn_limit - 1;
        for (size_t i = 0; i < POOL_FRAMES * 512; i++)
            pool_memory[i] = i < FRAMES * 512 ? random_word(&seed) : PAGE | POISON << 12;
        check_random_tree(p2m, &seed);
        /* The check itself ends, and has something to say. */
        CHECK(pool_findings(p2m, findings, 16) > 0);
    }
}

void core_mmu_tests(void)
{
    RUN(test_translation_faults);
    RUN(test_reserved_encodings);
    RUN(test_access_flag_and_permission);
    RUN(test_address_size);
    RUN(test_external);
    RUN(test_misaligned_block);
    RUN(test_random_trees);
}
