/*
 * What simulators ask for: tables in their own memory, their allocator, invalidations as calls,
 * walks that they feed, TLB entries, syndromes, runs one by one, checkpoints.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "p2mfast/p2mfast.h"

#define PAGE 4096u
#define FRAMES 64u
#define BASE_MFN ((uint64_t)0x12340)
#define GUARD 0x5a

static uint64_t seed = 1;

static uint64_t random_word(void)
{
    return harness_random(&seed);
}

static uint64_t below(uint64_t n)
{
    return harness_below(&seed, n);
}

/* ---- A simulator's memory ---- */

static _Alignas(PAGE) uint8_t memory[(FRAMES + 2) * PAGE]; /* a guard page at either end */

static uint64_t *frames(void)
{
    return (uint64_t *)(void *)(memory + PAGE);
}

static p2mfast_config_t in_memory(unsigned ipa_bits)
{
    p2mfast_config_t config = P2MFAST_CONFIG_DEFAULT;

    memset(memory, GUARD, sizeof(memory));
    config.ipa_bits = ipa_bits;
    config.table_memory = frames();
    config.table_frames = FRAMES;
    config.table_base_mfn = BASE_MFN;
    return config;
}

static bool guards_stand(void)
{
    for (size_t i = 0; i < PAGE; i++)
        if (memory[i] != GUARD || memory[(FRAMES + 1) * PAGE + i] != GUARD)
            return false;
    return true;
}

/* The machine's own load, of 8 bytes at a physical address. */
static uint64_t load(uint64_t pa)
{
    return frames()[(pa - BASE_MFN * PAGE) / 8];
}

static p2mfast_tlb_entry_t walk(const p2mfast_regime_t *regime, uint64_t ipa, unsigned access)
{
    p2mfast_walk_t walk;

    for (int more = p2mfast_walk_begin(&walk, regime, ipa, access); more;)
        more = p2mfast_walk_step(&walk, load(walk.address));
    return walk.result;
}

/* Some mappings of every kind in a few GiB; what does not fit in the tables is left out. */
static void map_some(p2mfast_t *p2m, unsigned ipa_bits)
{
    uint64_t limit = (uint64_t)1 << (ipa_bits - 12);

    for (int i = 0; i < 60; i++) {
        unsigned order = (unsigned)below(3) * 9;
        uint64_t nr = (1 + below(4)) << order;
        uint64_t gfn = (below(2) ? below(4) << 18 : limit - (below(2) + 1) * ((uint64_t)1 << 18)) +
                       (below((uint64_t)1 << 18) >> order << order);
        uint64_t mfn = below((uint64_t)1 << 34) >> order << order;

        p2mfast_set_entry(p2m, gfn, nr < limit - gfn ? nr : limit - gfn,
                          below(8) ? mfn : P2MFAST_INVALID_MFN, 1 + (unsigned)below(11),
                          (unsigned)below(P2MFAST_ACCESS_COUNT), below(4) ? 0 : P2MFAST_ARMED);
    }
}

/* ---- Tests ---- */

static void check_same_answers(p2mfast_t *p2m, const p2mfast_regime_t *regime, uint64_t ipa)
{
    unsigned access = 1 + (unsigned)below(7);
    p2mfast_tlb_entry_t fed = walk(regime, ipa, access);
    p2mfast_tlb_entry_t block;
    p2mfast_translation_t want;

    CHECK_EQUAL(p2mfast_translate_block(p2m, ipa, access, &block), 0);
    CHECK_EQUAL(p2mfast_translate(p2m, ipa, access, &want), 0);
    CHECK(!memcmp(&fed, &block, sizeof(fed)));
    CHECK_EQUAL(block.fault, want.fault);
    CHECK_EQUAL(block.level, want.level);
    if (want.fault) {
        CHECK_EQUAL(block.size != 0, want.fault == P2MFAST_FAULT_PERMISSION);
        return;
    }
    CHECK_EQUAL(block.pa + (ipa - block.ipa), want.pa);
    CHECK(ipa >= block.ipa && ipa - block.ipa < block.size);
    CHECK_EQUAL(block.size, (uint64_t)PAGE << 9 * (3 - block.level));
    CHECK_EQUAL(block.pa % block.size, 0);
    CHECK_EQUAL(block.rights & access, access);
    CHECK_EQUAL(block.memattr, want.attrs >> 2 & 0xf);
    CHECK_EQUAL(block.shareability, want.attrs >> 8 & 3);
    CHECK_EQUAL(block.reads, block.level - regime->root_level + 1);
}

static void test_own_memory_and_fed_walks(void)
{
    static const unsigned sizes[] = {32, 36, 40, 42, 44, 48};

    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        p2mfast_config_t config = in_memory(sizes[i]);
        p2mfast_t *p2m = p2mfast_create(&config);
        p2mfast_regime_t regime;

        CHECK(p2m != NULL);
        if (!p2m)
            continue;
        map_some(p2m, sizes[i]);
        CHECK_EQUAL(p2mfast_regime(p2mfast_vttbr(p2m), p2mfast_vtcr(p2m), 0, &regime), 0);
        CHECK_EQUAL(regime.root, BASE_MFN * PAGE);
        CHECK_EQUAL(regime.ipa_bits, sizes[i]);
        CHECK_EQUAL(regime.root_level, p2mfast_root_level(p2m));
        CHECK_EQUAL(regime.root_pages, p2mfast_root_pages(p2m));
        for (int n = 0; n < 4000; n++) {
            uint64_t ipa = below(4) ? below((uint64_t)4 << 30) : random_word() >> below(40);

            check_same_answers(p2m, &regime, ipa);
            check_same_answers(p2m, &regime, ((uint64_t)1 << sizes[i]) - 1 - below(1u << 30));
        }
        p2mfast_destroy(p2m);
        CHECK(guards_stand());
    }
}

static void test_own_memory_that_is_used_up(void)
{
    p2mfast_config_t config = in_memory(40);
    p2mfast_t *p2m = p2mfast_create(&config);
    p2mfast_stats_t stats;
    uint64_t n = 0;
    int error;

    while (!(error = p2mfast_set_entry(p2m, n << 18, 1, n, P2MFAST_RAM_RW, P2MFAST_ACCESS_RWX, 0)))
        n++;
    CHECK_EQUAL(error, P2MFAST_ERROR_TABLES);
    CHECK_EQUAL(n, (FRAMES - 2) / 2);
    p2mfast_get_stats(p2m, &stats);
    CHECK_EQUAL(stats.mappings[3], n);
    CHECK_EQUAL(stats.reserved_bytes, FRAMES * PAGE);
    /* Not one table more, either. */
    CHECK_EQUAL(p2mfast_set_entry(p2m, 512, 1, 0, P2MFAST_RAM_RW, P2MFAST_ACCESS_RWX, 0),
                P2MFAST_ERROR_TABLES);
    CHECK_EQUAL(p2mfast_relinquish(p2m, P2MFAST_UNLIMITED), 0);
    p2mfast_destroy(p2m);
    CHECK(guards_stand());
}

static void check_refused(p2mfast_config_t config, int want)
{
    int error = 0;

    CHECK(!p2mfast_create_with_error(&config, &error));
    CHECK_EQUAL(error, want);
    CHECK(strcmp(p2mfast_error_words(error), "an unknown error") != 0);
}

static void *take(void *context, size_t bytes)
{
    (void)context;
    return malloc(bytes);
}

static void test_wrong_configurations(void)
{
    p2mfast_config_t config;

    config = in_memory(40);
    config.size--;
    check_refused(config, P2MFAST_ERROR_ABI);
    config = in_memory(40);
    config.table_base_mfn = P2MFAST_INVALID_MFN;
    check_refused(config, P2MFAST_ERROR_TABLE_BASE);
    config = in_memory(40);
    config.table_base_mfn++;
    check_refused(config, P2MFAST_ERROR_TABLE_BASE);
    config = in_memory(40);
    config.table_memory = (uint8_t *)config.table_memory + 4;
    check_refused(config, P2MFAST_ERROR_ARGUMENT);
    config = in_memory(40);
    config.table_memory = NULL;
    check_refused(config, P2MFAST_ERROR_ARGUMENT);
    config = in_memory(40);
    config.table_frames = 1;
    check_refused(config, P2MFAST_ERROR_TABLES);
    config = in_memory(40);
    config.allocate = take;
    check_refused(config, P2MFAST_ERROR_ARGUMENT);
    CHECK(strcmp(p2mfast_error_words(1), "no error") == 0);
    CHECK(strcmp(p2mfast_error_words(-1000), "an unknown error") == 0);
    CHECK_EQUAL(p2mfast_abi_version(), P2MFAST_ABI_VERSION);
}

/* ---- The embedder's functions ---- */

struct embedder {
    size_t blocks;
    size_t bytes;
    size_t allowed; /* allocations until there is no more memory */
    uint64_t invalidations;
    p2mfast_invalidation_t last;
    unsigned messages;
};

static void *embedder_allocate(void *context, size_t bytes)
{
    struct embedder *embedder = context;
    void *block = embedder->allowed ? malloc(bytes) : NULL;

    if (!block)
        return NULL;
    embedder->allowed--;
    embedder->blocks++;
    embedder->bytes += bytes;
    memset(block, GUARD, bytes);
    return block;
}

static void embedder_release(void *context, void *block, size_t bytes)
{
    struct embedder *embedder = context;

    embedder->blocks--;
    embedder->bytes -= bytes;
    free(block);
}

static void embedder_invalidate(void *context, const p2mfast_invalidation_t *invalidation)
{
    struct embedder *embedder = context;

    embedder->invalidations++;
    embedder->last = *invalidation;
}

static void embedder_log(void *context, const char *message)
{
    CHECK(message[0] != 0);
    ((struct embedder *)context)->messages++;
}

static p2mfast_config_t config_of(struct embedder *embedder)
{
    p2mfast_config_t config = P2MFAST_CONFIG_DEFAULT;

    config.vmid = 77;
    config.context = embedder;
    config.allocate = embedder_allocate;
    config.release = embedder_release;
    config.log = embedder_log;
    return config;
}

static void test_all_memory_is_the_embedders_and_given_back(void)
{
    struct embedder embedder = {.allowed = 1000};
    p2mfast_config_t config = config_of(&embedder);
    p2mfast_t *p2m = p2mfast_create(&config);

    CHECK(embedder.blocks > 0);
    CHECK_EQUAL(p2mfast_set_entry(p2m, 0, 512, 0, P2MFAST_MAP_FOREIGN_RW, P2MFAST_ACCESS_RWX,
                                  P2MFAST_MAX_ORDER_0),
                0);
    CHECK_EQUAL(p2mfast_set_mem_access(p2m, 3, 4, P2MFAST_ACCESS_R), 0);
    for (uint64_t gfn = 0; gfn < 512; gfn += 2)
        CHECK_EQUAL(p2mfast_set_entry(p2m, gfn, 1, P2MFAST_INVALID_MFN, 0, P2MFAST_ACCESS_RWX, 0),
                    0);
    p2mfast_destroy(p2m);
    CHECK_EQUAL(embedder.blocks, 0);
    CHECK_EQUAL(embedder.bytes, 0);
}

static void test_memory_that_ends(void)
{
    for (size_t allowed = 0; allowed < 8; allowed++) {
        struct embedder embedder = {.allowed = allowed};
        p2mfast_config_t config = config_of(&embedder);
        int error = 0;
        p2mfast_t *p2m = p2mfast_create_with_error(&config, &error);

        if (!p2m) {
            CHECK_EQUAL(error, P2MFAST_ERROR_MEMORY);
            CHECK(allowed < 2);
        } else {
            CHECK_EQUAL(p2mfast_set_entry(p2m, 0, 1, 0, P2MFAST_RAM_RW, P2MFAST_ACCESS_RWX, 0), 0);
            error = p2mfast_set_mem_access(p2m, 0, 1, P2MFAST_ACCESS_R);
            CHECK_EQUAL(error, allowed < 6 ? P2MFAST_ERROR_MEMORY : 0);
            CHECK_EQUAL(embedder.messages, allowed < 6);
        }
        p2mfast_destroy(p2m);
        CHECK_EQUAL(embedder.blocks, 0);
    }
}

static void test_invalidations_as_calls(void)
{
    struct embedder embedder = {.allowed = 1000};
    p2mfast_config_t config = config_of(&embedder);
    p2mfast_t *p2m;

    config.tlb_invalidate = embedder_invalidate;
    p2m = p2mfast_create(&config);
    p2mfast_set_entry(p2m, 0x40000, 512, 0, P2MFAST_RAM_RW, P2MFAST_ACCESS_RWX, 0);
    CHECK_EQUAL(embedder.invalidations, 0);
    p2mfast_set_entry(p2m, 0x40003, 1, P2MFAST_INVALID_MFN, 0, P2MFAST_ACCESS_RWX, 0);
    CHECK_EQUAL(embedder.last.scope, P2MFAST_SCOPE_RANGE);
    CHECK_EQUAL(embedder.last.vmid, 77);
    CHECK(embedder.last.gfn <= 0x40003 && embedder.last.gfn + embedder.last.nr > 0x40003);
    p2mfast_invalidate_root(p2m);
    CHECK_EQUAL(embedder.last.scope, P2MFAST_SCOPE_VMID);
    CHECK_EQUAL(embedder.last.nr, (uint64_t)1 << 28);
    CHECK_EQUAL(embedder.invalidations, p2mfast_tlb_generation(p2m));
    CHECK_EQUAL(p2mfast_pending_events(p2m), 0);
    p2mfast_destroy(p2m);
}

static void test_events_that_nobody_drains(void)
{
    struct embedder embedder = {.allowed = 1000};
    p2mfast_config_t config = config_of(&embedder);
    p2mfast_t *p2m = p2mfast_create(&config);
    static p2mfast_event_t events[8];

    p2mfast_set_entry(p2m, 0, 1, 0, P2MFAST_RAM_RW, P2MFAST_ACCESS_RWX, 0);
    for (int i = 0; i < 5000; i++)
        p2mfast_invalidate_root(p2m);
    CHECK_EQUAL(embedder.messages, 1);
    CHECK(p2mfast_pending_events(p2m) < 4096);
    CHECK_EQUAL(p2mfast_drain_events(p2m, events, 1), 1);
    CHECK_EQUAL(events[0].nr, (uint64_t)1 << 28);
    CHECK_EQUAL(p2mfast_tlb_generation(p2m), 5000);
    p2mfast_destroy(p2m);
}

/* ---- Walks and faults ---- */

static void test_a_walk_that_cannot_go_on(void)
{
    p2mfast_config_t config = in_memory(40);
    p2mfast_t *p2m = p2mfast_create(&config);
    p2mfast_regime_t regime;
    p2mfast_walk_t walk;

    p2mfast_set_entry(p2m, 5, 1, 9, P2MFAST_RAM_RW, P2MFAST_ACCESS_RWX, 0);
    p2mfast_regime(p2mfast_vttbr(p2m), p2mfast_vtcr(p2m), 0, &regime);
    CHECK_EQUAL(p2mfast_walk_begin(&walk, &regime, 5 * PAGE, 0), P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(p2mfast_walk_begin(&walk, &regime, 5 * PAGE, 8), P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(p2mfast_walk_begin(&walk, &regime, (uint64_t)1 << 40, 1), 0);
    CHECK_EQUAL(walk.result.fault, P2MFAST_FAULT_TRANSLATION);
    CHECK_EQUAL(walk.result.level, 0);
    CHECK_EQUAL(p2mfast_walk_begin(&walk, &regime, 5 * PAGE, 1), 1);
    CHECK_EQUAL(walk.address, BASE_MFN * PAGE);
    CHECK_EQUAL(p2mfast_walk_step(&walk, load(walk.address)), 1);
    p2mfast_walk_abort(&walk);
    CHECK_EQUAL(walk.result.fault, P2MFAST_FAULT_EXTERNAL);
    CHECK_EQUAL(walk.result.level, 2);
    CHECK_EQUAL(walk.result.reads, 1);
    CHECK_EQUAL(p2mfast_regime(BASE_MFN * PAGE + PAGE, p2mfast_vtcr(p2m), 0, &regime),
                P2MFAST_ERROR_TABLE_BASE);
    CHECK_EQUAL(p2mfast_regime(0, 0x80003558 | 1 << 14, 0, &regime), P2MFAST_ERROR_IPA_BITS);
    CHECK_EQUAL(p2mfast_regime(0, 0x80003558, 41, &regime), P2MFAST_ERROR_PA_BITS);
    /* Root tables beyond the output size are not read. */
    CHECK_EQUAL(p2mfast_regime((uint64_t)1 << 40, 0x80003558, 36, &regime), 0);
    CHECK_EQUAL(p2mfast_walk_begin(&walk, &regime, 5 * PAGE, 1), 0);
    CHECK_EQUAL(walk.result.fault, P2MFAST_FAULT_ADDRESS_SIZE);
    CHECK_EQUAL(walk.result.level, 0);
    p2mfast_destroy(p2m);
}

/* Worked by hand from the register descriptions. */
static const struct {
    unsigned fault, access, flags;
    int level;
    uint64_t ipa, esr, hpfar;
} syndromes[] = {
    {P2MFAST_FAULT_TRANSLATION, 1, 0, 3, 0x40001234, 0x92000007, 0x400010},
    {P2MFAST_FAULT_TRANSLATION, 2, 0, 2, 0x1000, 0x92000046, 0x10},
    {P2MFAST_FAULT_TRANSLATION, 3, 0, 2, 0x1000, 0x92000006, 0x10},
    {P2MFAST_FAULT_TRANSLATION, 4, 0, 1, 0xfffffffff000, 0x82000005, 0xfffffffff0},
    {P2MFAST_FAULT_PERMISSION, 2, 0, 3, 0, 0x9200004f, 0},
    {P2MFAST_FAULT_ACCESS_FLAG, 1, 0, 2, 0, 0x9200000a, 0},
    {P2MFAST_FAULT_ADDRESS_SIZE, 1, 0, 0, 0, 0x92000000, 0},
    {P2MFAST_FAULT_EXTERNAL, 1, 0, 2, 0, 0x92000016, 0},
    {P2MFAST_FAULT_TRANSLATION, 1, P2MFAST_STAGE1_WALK, 3, 0, 0x92000087, 0},
    {P2MFAST_FAULT_TRANSLATION, 4, P2MFAST_STAGE1_WALK, 3, 0, 0x82000087, 0},
    {P2MFAST_FAULT_TRANSLATION, 1, P2MFAST_CACHE_OP, 3, 0, 0x92000147, 0},
    {P2MFAST_FAULT_ADDRESS_SIZE, 1, P2MFAST_AARCH32, 0, 0, 0x92000000, 0},
    {P2MFAST_FAULT_TRANSLATION, 1, P2MFAST_AARCH32, 0, 0xff12345678, 0x92000005, 0xff123450},
};

static void test_syndromes(void)
{
    p2mfast_syndrome_t got;

    for (unsigned i = 0; i < sizeof(syndromes) / sizeof(syndromes[0]); i++) {
        CHECK_EQUAL(p2mfast_syndrome(syndromes[i].fault, syndromes[i].level, syndromes[i].ipa,
                                     syndromes[i].access, syndromes[i].flags, &got),
                    0);
        CHECK_EQUAL(got.esr, syndromes[i].esr);
        CHECK_EQUAL(got.hpfar, syndromes[i].hpfar);
    }
    CHECK_EQUAL(p2mfast_syndrome(0, 3, 0, 1, 0, &got), P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(p2mfast_syndrome(6, 3, 0, 1, 0, &got), P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(p2mfast_syndrome(1, 4, 0, 1, 0, &got), P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(p2mfast_syndrome(1, -1, 0, 1, 0, &got), P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(p2mfast_syndrome(1, 3, 0, 0, 0, &got), P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(p2mfast_syndrome(1, 3, 0, 1, 8, &got), P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(p2mfast_syndrome(1, 3, 0, 4, P2MFAST_CACHE_OP, &got), P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(p2mfast_syndrome(1, 3, (uint64_t)1 << 52, 1, 0, &got), P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(p2mfast_syndrome(1, 3, (uint64_t)1 << 40, 1, P2MFAST_AARCH32, &got),
                P2MFAST_ERROR_ARGUMENT);
}

static void test_runs_one_by_one(void)
{
    static p2mfast_mapped_run_t all[4096];
    p2mfast_t *p2m = p2mfast_create(NULL);
    p2mfast_mapped_run_t run;
    uint64_t gfn = 0;
    size_t n;

    map_some(p2m, 40);
    n = p2mfast_mapped_runs(p2m, all, 4096);
    CHECK(n > 10);
    for (size_t i = 0; i < n; i++) {
        uint64_t inside = all[i].gfn + all[i].nr / 2;

        CHECK_EQUAL(p2mfast_next_run(p2m, &gfn, &run), 1);
        CHECK(!memcmp(&run, &all[i], sizeof(run)));
        CHECK_EQUAL(gfn, run.gfn + run.nr);
        CHECK_EQUAL(p2mfast_next_run(p2m, &inside, &run), 1);
        CHECK_EQUAL(run.gfn, all[i].gfn + all[i].nr / 2);
        CHECK_EQUAL(run.mfn, all[i].mfn + all[i].nr / 2);
        CHECK_EQUAL(inside, all[i].gfn + all[i].nr);
    }
    CHECK_EQUAL(p2mfast_next_run(p2m, &gfn, &run), 0);
    gfn = (uint64_t)1 << 28;
    CHECK_EQUAL(p2mfast_next_run(p2m, &gfn, &run), 0);
    gfn = UINT64_MAX;
    CHECK_EQUAL(p2mfast_next_run(p2m, &gfn, &run), 0);
    p2mfast_destroy(p2m);
}

/* ---- Checkpoints ---- */

static uint8_t buffer[4 << 20];
static uint8_t other[4 << 20];

static p2mfast_t *busy_p2m(unsigned ipa_bits)
{
    p2mfast_config_t config = P2MFAST_CONFIG_DEFAULT;
    p2mfast_t *p2m;

    config.ipa_bits = ipa_bits;
    config.vmid = 300;
    config.max_tables = 500;
    p2m = p2mfast_create(&config);
    map_some(p2m, ipa_bits);
    p2mfast_invalidate_root(p2m);
    p2mfast_set_mem_access(p2m, 0, 1 << 18, P2MFAST_ACCESS_RX);
    p2mfast_set_mem_access(p2m, 100, 1000, P2MFAST_ACCESS_N);
    p2mfast_enable_mem_access(p2m, ipa_bits != 40);
    map_some(p2m, ipa_bits);
    for (int i = 0; i < 300; i++)
        p2mfast_resolve_translation_fault(p2m, below((uint64_t)4 << 18), P2MFAST_DEPTH_PATH, 0);
    return p2m;
}

static void check_alike(p2mfast_t *p2m, p2mfast_t *copy)
{
    for (int i = 0; i < 2000; i++) {
        uint64_t gfn = below((uint64_t)4 << 18);
        p2mfast_entry_t one;
        p2mfast_entry_t two;

        CHECK_EQUAL(p2mfast_get_entry(p2m, gfn, &one), 0);
        CHECK_EQUAL(p2mfast_get_entry(copy, gfn, &two), 0);
        CHECK(!memcmp(&one, &two, sizeof(one)));
    }
}

static void test_checkpoints(void)
{
    static const unsigned sizes[] = {32, 40, 48};

    for (unsigned i = 0; i < 3; i++) {
        p2mfast_t *p2m = busy_p2m(sizes[i]);
        size_t size = p2mfast_checkpoint(p2m, NULL, 0);
        uint64_t state;
        p2mfast_t *copy;
        p2mfast_stats_t stats;
        p2mfast_event_t event;
        int error = 9;

        CHECK(size < sizeof(buffer));
        memset(buffer, GUARD, sizeof(buffer));
        CHECK_EQUAL(p2mfast_checkpoint(p2m, buffer, size - 1), size);
        CHECK_EQUAL(buffer[0], GUARD); /* what does not fit is not written */
        CHECK_EQUAL(p2mfast_checkpoint(p2m, buffer, sizeof(buffer)), size);
        CHECK_EQUAL(buffer[size], GUARD);
        copy = p2mfast_restore(buffer, size, NULL, &error);
        CHECK_EQUAL(error, 0);
        CHECK(copy != NULL);
        if (!copy)
            continue;
        CHECK_EQUAL(p2mfast_vttbr(copy), p2mfast_vttbr(p2m));
        CHECK_EQUAL(p2mfast_vtcr(copy), p2mfast_vtcr(p2m));
        CHECK_EQUAL(p2mfast_max_tables(copy), 500);
        CHECK_EQUAL(p2mfast_mem_access_enabled(copy), sizes[i] != 40);
        CHECK_EQUAL(p2mfast_drain_events(copy, &event, 1), 1);
        CHECK_EQUAL(event.kind, P2MFAST_EVENT_TLB_INVALIDATE);
        CHECK_EQUAL(event.nr, (uint64_t)1 << (sizes[i] - 12));
        check_alike(p2m, copy);
        state = seed; /* the same changes to both */
        map_some(p2m, sizes[i]);
        seed = state;
        map_some(copy, sizes[i]);
        check_alike(p2m, copy);
        p2mfast_enable_mem_access(p2m, 1);
        p2mfast_enable_mem_access(copy, 1);
        check_alike(p2m, copy);
        p2mfast_get_stats(copy, &stats);
        CHECK_EQUAL(p2mfast_check(copy, other, sizeof(other), NULL, 0), 0);
        p2mfast_destroy(copy);
        p2mfast_destroy(p2m);
    }
}

static void test_a_checkpoint_in_own_memory(void)
{
    p2mfast_config_t config = in_memory(40);
    p2mfast_t *p2m = p2mfast_create(&config);
    p2mfast_regime_t regime;
    size_t size;
    int error = 9;

    map_some(p2m, 40);
    size = p2mfast_checkpoint(p2m, buffer, sizeof(buffer));
    p2mfast_destroy(p2m);
    config = in_memory(40);
    p2m = p2mfast_restore(buffer, size, &config, &error);
    CHECK_EQUAL(error, 0);
    CHECK_EQUAL(p2mfast_regime(p2mfast_vttbr(p2m), p2mfast_vtcr(p2m), 0, &regime), 0);
    for (int n = 0; n < 1000; n++)
        check_same_answers(p2m, &regime, below((uint64_t)4 << 30));
    p2mfast_destroy(p2m);
    config = in_memory(40);
    config.table_frames = 2;
    CHECK(!p2mfast_restore(buffer, size, &config, &error));
    CHECK_EQUAL(error, P2MFAST_ERROR_TABLES);
    config.size = 8;
    CHECK(!p2mfast_restore(buffer, size, &config, &error));
    CHECK_EQUAL(error, P2MFAST_ERROR_ABI);
    CHECK(guards_stand());
}

/* The quota at creation is no limit for later ones, nor for tables that are free by then. */
static void test_quotas_that_change(void)
{
    p2mfast_config_t config = P2MFAST_CONFIG_DEFAULT;
    p2mfast_t *p2m;
    p2mfast_t *copy;
    int error = 9;

    config.max_tables = 2;
    p2m = p2mfast_create(&config);
    CHECK_EQUAL(p2mfast_set_max_tables(p2m, P2MFAST_UNLIMITED), 0);
    for (uint64_t i = 0; i < 50; i++)
        CHECK_EQUAL(p2mfast_set_entry(p2m, i << 18, 1, i, P2MFAST_RAM_RW, P2MFAST_ACCESS_RWX, 0),
                    0);
    CHECK_EQUAL(p2mfast_set_entry(p2m, 0, (uint64_t)50 << 18, P2MFAST_INVALID_MFN, 0, 0, 0), 0);
    CHECK_EQUAL(p2mfast_set_max_tables(p2m, 4), 0);
    copy = p2mfast_restore(buffer, p2mfast_checkpoint(p2m, buffer, sizeof(buffer)), NULL, &error);
    CHECK_EQUAL(error, 0);
    CHECK(copy && p2mfast_max_tables(copy) == 4);
    p2mfast_destroy(copy);
    p2mfast_destroy(p2m);
}

/* Cut off anywhere, or with any bytes changed: an error, or a P2M that is sound. */
static void test_hostile_checkpoints(void)
{
    p2mfast_t *p2m = busy_p2m(32);
    size_t size = p2mfast_checkpoint(p2m, buffer, sizeof(buffer));
    unsigned restored = 0;

    p2mfast_destroy(p2m);
    for (int i = 0; i < 4000; i++) {
        size_t length = below(4) ? size : below(size);
        size_t near = below(2) ? 256 : size;
        int error = 0;

        memcpy(other, buffer, size);
        for (uint64_t n = below(4); n; n--)
            other[below(near)] = below(2) ? (uint8_t)random_word() : 0xff;
        p2m = p2mfast_restore(other, length, NULL, &error);
        CHECK_EQUAL(p2m != NULL, error == 0);
        if (!p2m)
            continue;
        restored++;
        map_some(p2m, 32);
        p2mfast_harvest(p2m, &(uint64_t){0}, (p2mfast_run_t[512]){{0}}, 512, &(size_t){0});
        p2mfast_destroy(p2m);
    }
    CHECK(restored > 100);
    CHECK(restored < 3900);
}

int main(void)
{
    RUN(test_own_memory_and_fed_walks);
    RUN(test_own_memory_that_is_used_up);
    RUN(test_wrong_configurations);
    RUN(test_all_memory_is_the_embedders_and_given_back);
    RUN(test_memory_that_ends);
    RUN(test_invalidations_as_calls);
    RUN(test_events_that_nobody_drains);
    RUN(test_a_walk_that_cannot_go_on);
    RUN(test_syndromes);
    RUN(test_runs_one_by_one);
    RUN(test_checkpoints);
    RUN(test_a_checkpoint_in_own_memory);
    RUN(test_quotas_that_change);
    RUN(test_hostile_checkpoints);
    return harness_finish();
}
