/*
 * The hosted library through its public header alone: life, table memory, events, and readers that
 * run beside a writer.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "harness.h"
#include "p2mfast/p2mfast.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#define BLOCK 512u
#define GIB (BLOCK * BLOCK)
#define NONE P2MFAST_INVALID_MFN
#define MAX_EVENTS 8192

static p2mfast_event_t events[MAX_EVENTS];

static int map(p2mfast_t *p2m, uint64_t gfn, uint64_t nr, uint64_t mfn, unsigned type,
               unsigned flags)
{
    return p2mfast_set_entry(p2m, gfn, nr, mfn, type, P2MFAST_ACCESS_RWX, flags);
}

static void check_sound(p2mfast_t *p2m)
{
    const uint64_t *first;
    uint64_t rows;
    uint64_t base;
    uint8_t *seen;

    p2mfast_tables(p2m, &first, &rows, &base);
    seen = malloc(rows);
    if (CHECK(seen))
        CHECK_EQUAL(p2mfast_check(p2m, seen, rows, NULL, 0), 0);
    free(seen);
}

/* ---- Life ---- */

static void test_create_and_destroy(void)
{
    static const unsigned ipa_sizes[] = {32, 36, 40, 42, 44, 48};
    p2mfast_t *p2m = p2mfast_create(NULL);
    int error = 9;

    p2mfast_destroy(NULL);
    if (!CHECK(p2m))
        return;
    CHECK_EQUAL(p2mfast_ipa_bits(p2m), 40);
    CHECK_EQUAL(p2mfast_root_pages(p2m), 2);
    CHECK_EQUAL(p2mfast_vttbr(p2m) >> 48, 1);
    CHECK_EQUAL(p2mfast_pending_events(p2m), 0);
    check_sound(p2m);
    p2mfast_destroy(p2m);
    for (unsigned i = 0; i < sizeof(ipa_sizes) / sizeof(ipa_sizes[0]); i++) {
        p2mfast_config_t config = P2MFAST_CONFIG_DEFAULT;
        p2mfast_entry_t entry;
        uint64_t last = (UINT64_C(1) << (ipa_sizes[i] - 12)) - 1;

        config.ipa_bits = ipa_sizes[i];
        config.vmid = 0xffff;
        p2m = p2mfast_create_with_error(&config, &error);
        CHECK_EQUAL(error, 0);
        if (!CHECK(p2m))
            return;
        CHECK_EQUAL(p2mfast_vttbr(p2m) >> 48, 0xffff);
        CHECK_EQUAL(map(p2m, last, 1, 0x123, P2MFAST_RAM_RW, 0), 0);
        CHECK_EQUAL(p2mfast_get_entry(p2m, last, &entry), 0);
        CHECK_EQUAL(entry.mfn, 0x123);
        check_sound(p2m);
        p2mfast_destroy(p2m);
    }
}

static void check_refused(const p2mfast_config_t *config, int want)
{
    int error = 9;

    CHECK(!p2mfast_create_with_error(config, &error));
    CHECK_EQUAL(error, want);
    CHECK(!p2mfast_create(config));
}

static void test_wrong_configurations(void)
{
    const p2mfast_config_t fine = P2MFAST_CONFIG_DEFAULT;
    static const unsigned wrong[] = {0, 31, 33, 39, 41, 47, 49, 52, 64};
    p2mfast_config_t config;

    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        config = fine;
        config.ipa_bits = wrong[i];
        check_refused(&config, P2MFAST_ERROR_IPA_BITS);
        config = fine;
        config.pa_bits = wrong[i];
        check_refused(&config, P2MFAST_ERROR_PA_BITS);
    }
    config = fine;
    config.vmid = 0x10000;
    check_refused(&config, P2MFAST_ERROR_ARGUMENT);
}

/* ---- Table memory ---- */

static p2mfast_t *create_at(unsigned ipa_bits, unsigned pa_bits, uint64_t base, int *error)
{
    p2mfast_config_t config = P2MFAST_CONFIG_DEFAULT;

    config.ipa_bits = ipa_bits;
    config.pa_bits = pa_bits;
    config.table_base_mfn = base;
    return p2mfast_create_with_error(&config, error);
}

/* The roots are the first tables: aligned to their own size, inside the physical space. */
static void check_base(unsigned ipa_bits, unsigned pa_bits, uint64_t base, int want)
{
    int error = 9;
    p2mfast_t *p2m = create_at(ipa_bits, pa_bits, base, &error);
    const uint64_t *first;
    uint64_t rows;
    uint64_t got;

    CHECK_EQUAL(error, want);
    CHECK(!p2m == !!want);
    if (!p2m)
        return;
    p2mfast_tables(p2m, &first, &rows, &got);
    if (base != NONE)
        CHECK_EQUAL(got, base);
    CHECK_EQUAL(rows, p2mfast_root_pages(p2m));
    CHECK_EQUAL(got % p2mfast_root_pages(p2m), 0);
    CHECK(got + rows <= UINT64_C(1) << (pa_bits - 12));
    CHECK_EQUAL(p2mfast_vttbr(p2m) & ((UINT64_C(1) << 48) - 1), got << 12);
    p2mfast_destroy(p2m);
}

static void test_table_base(void)
{
    static const unsigned pa_sizes[] = {32, 36, 40, 42, 44, 48};

    for (unsigned i = 0; i < 6; i++) {
        uint64_t limit = UINT64_C(1) << (pa_sizes[i] - 12);

        check_base(40, pa_sizes[i], NONE, 0);
        check_base(42, pa_sizes[i], NONE, 0);
        check_base(40, pa_sizes[i], 0, 0);
        check_base(40, pa_sizes[i], limit - 2, 0);
        check_base(42, pa_sizes[i], limit - 8, 0);
        check_base(48, pa_sizes[i], limit - 1, 0);
        check_base(40, pa_sizes[i], limit, P2MFAST_ERROR_TABLE_BASE);
        check_base(40, pa_sizes[i], limit - 1, P2MFAST_ERROR_TABLE_BASE);
        check_base(42, pa_sizes[i], limit - 4, P2MFAST_ERROR_TABLE_BASE);
        check_base(48, pa_sizes[i], limit, P2MFAST_ERROR_TABLE_BASE);
        check_base(40, pa_sizes[i], NONE - 1, P2MFAST_ERROR_TABLE_BASE);
    }
    check_base(40, 48, 0x1001, P2MFAST_ERROR_TABLE_BASE);
    check_base(42, 48, 0x1004, P2MFAST_ERROR_TABLE_BASE);
    check_base(48, 48, 0x1001, 0);
}

/* No table lies where no MMU of this size could fetch it. */
static void test_tables_end_with_the_space(void)
{
    int error;
    p2mfast_t *p2m = create_at(40, 32, 0x100000 - 4, &error);
    p2mfast_entry_t entry;

    if (!CHECK(p2m))
        return;
    CHECK_EQUAL(map(p2m, 0, 1, 0x70, P2MFAST_RAM_RW, 0), 0);
    CHECK_EQUAL(map(p2m, BLOCK, 1, 0x70, P2MFAST_RAM_RW, 0), P2MFAST_ERROR_TABLES);
    CHECK_EQUAL(p2mfast_get_entry(p2m, BLOCK, &entry), 0);
    CHECK_EQUAL(entry.mfn, NONE);
    check_sound(p2m);
    p2mfast_destroy(p2m);
}

/* The rows hold the live descriptors, and stay where they are while frames come and go. */
static void test_tables_stay(void)
{
    p2mfast_t *p2m = p2mfast_create(NULL);
    const uint64_t *first;
    const uint64_t *again;
    uint64_t rows;
    uint64_t more;
    uint64_t base;
    p2mfast_word_t word;

    CHECK_EQUAL(map(p2m, 5, 1, 0x70, P2MFAST_RAM_RW, 0), 0);
    p2mfast_tables(p2m, &first, &rows, &base);
    CHECK_EQUAL(rows, 4);
    CHECK_EQUAL(p2mfast_words(p2m, 1, &word, 1), 1);
    CHECK_EQUAL(first[0], word.raw);
    CHECK_EQUAL((word.raw >> 12 & 0xfffffffff) - base, 2);
    for (unsigned round = 0; round < 3; round++) {
        CHECK_EQUAL(map(p2m, 0, GIB, 0x100000, P2MFAST_RAM_RW, P2MFAST_MAX_ORDER_0), 0);
        CHECK_EQUAL(map(p2m, 0, GIB, NONE, P2MFAST_RAM_RW, 0), 0);
        p2mfast_tables(p2m, &again, &more, &base);
        /* Recycled: a second round takes no more than the first. */
        CHECK_EQUAL(more, 2 + 1 + 512);
        CHECK(again == first);
        check_sound(p2m);
    }
    /* Recycled frames are cleared, or filled whole. */
    CHECK_EQUAL(map(p2m, 3, 1, 0x99, P2MFAST_RAM_RW, 0), 0);
    CHECK_EQUAL(p2mfast_words(p2m, 3, &word, 1), 1);
    CHECK_EQUAL(map(p2m, GIB, BLOCK, 0x200000, P2MFAST_RAM_RW, 0), 0);
    CHECK_EQUAL(map(p2m, GIB + 1, 1, NONE, P2MFAST_RAM_RW, 0), 0);
    CHECK_EQUAL(p2mfast_words(p2m, 3, &word, 1), 512);
    check_sound(p2m);
    p2mfast_destroy(p2m);
}

static void test_quota(void)
{
    p2mfast_config_t config = P2MFAST_CONFIG_DEFAULT;
    uint64_t gfns[] = {0, BLOCK, 1, BLOCK + 1};
    uint64_t mfns[] = {1, 2, 3, 4};
    p2mfast_t *p2m;
    p2mfast_stats_t stats;

    config.max_tables = 3;
    p2m = p2mfast_create(&config);
    /* Three are needed, whatever the order they come in. */
    CHECK_EQUAL(p2mfast_set_entries(p2m, gfns, mfns, 4, P2MFAST_RAM_RW, 7, 0), 0);
    CHECK_EQUAL(map(p2m, GIB, 1, 5, P2MFAST_RAM_RW, 0), P2MFAST_ERROR_TABLES);
    p2mfast_get_stats(p2m, &stats);
    CHECK_EQUAL(stats.tables, 3);
    CHECK_EQUAL(stats.mappings[3], 4);
    check_sound(p2m);
    p2mfast_destroy(p2m);
}

/* ---- Events ---- */

static void check_event(const p2mfast_event_t *event, uint32_t kind, uint64_t gfn, uint64_t nr,
                        uint64_t mfn, uint32_t type)
{
    CHECK_EQUAL(event->kind, kind);
    CHECK_EQUAL(event->gfn, gfn);
    CHECK_EQUAL(event->nr, nr);
    CHECK_EQUAL(event->mfn, mfn);
    CHECK_EQUAL(event->type, type);
}

static void test_invalidations(void)
{
    p2mfast_t *p2m = p2mfast_create(NULL);

    /* What was not there needs none; nor does what no walk has reached. */
    CHECK_EQUAL(map(p2m, 0, 3 * BLOCK, 0x100000, P2MFAST_RAM_RW, 0), 0);
    CHECK_EQUAL(map(p2m, GIB, 1, 0x100000, P2MFAST_RAM_RW, P2MFAST_ARMED), 0);
    CHECK_EQUAL(map(p2m, GIB, 1, 0x200000, P2MFAST_RAM_RW, 0), 0);
    CHECK_EQUAL(p2mfast_pending_events(p2m), 0);
    CHECK_EQUAL(map(p2m, BLOCK, BLOCK, NONE, P2MFAST_RAM_RW, 0), 0);
    CHECK_EQUAL(p2mfast_invalidate_root(p2m), 0);
    CHECK_EQUAL(p2mfast_pending_events(p2m), 2);
    /* One at a time. */
    CHECK_EQUAL(p2mfast_drain_events(p2m, events, 1), 1);
    check_event(&events[0], P2MFAST_EVENT_TLB_INVALIDATE, BLOCK, BLOCK, NONE, 0);
    CHECK_EQUAL(p2mfast_pending_events(p2m), 1);
    CHECK_EQUAL(p2mfast_drain_events(p2m, events, MAX_EVENTS), 1);
    check_event(&events[0], P2MFAST_EVENT_TLB_INVALIDATE, 0, UINT64_C(1) << 28, NONE, 0);
    CHECK_EQUAL(p2mfast_drain_events(p2m, events, MAX_EVENTS), 0);
    p2mfast_destroy(p2m);
}

/* 4096 are kept; with one more, one stands for all, and counting begins anew. */
static void test_invalidations_overflow(void)
{
    p2mfast_t *p2m = p2mfast_create(NULL);
    p2mfast_stats_t stats;

    CHECK_EQUAL(map(p2m, 5, 2, 0, P2MFAST_RAM_RW, 0), 0);
    for (uint64_t i = 1; i <= 4096; i++)
        CHECK_EQUAL(map(p2m, 5, 1, i, P2MFAST_RAM_RW, 0), 0);
    CHECK_EQUAL(p2mfast_pending_events(p2m), 4096);
    CHECK_EQUAL(p2mfast_drain_events(p2m, events, 1), 1);
    check_event(&events[0], P2MFAST_EVENT_TLB_INVALIDATE, 5, 1, NONE, 0);
    CHECK_EQUAL(map(p2m, 6, 1, 9, P2MFAST_RAM_RW, 0), 0);
    CHECK_EQUAL(p2mfast_pending_events(p2m), 4096);
    CHECK_EQUAL(map(p2m, 6, 1, 10, P2MFAST_RAM_RW, 0), 0);
    CHECK_EQUAL(map(p2m, 6, 1, 11, P2MFAST_RAM_RW, 0), 0);
    CHECK_EQUAL(p2mfast_drain_events(p2m, events, MAX_EVENTS), 2);
    check_event(&events[0], P2MFAST_EVENT_TLB_INVALIDATE, 0, UINT64_C(1) << 28, NONE, 0);
    check_event(&events[1], P2MFAST_EVENT_TLB_INVALIDATE, 6, 1, NONE, 0);
    p2mfast_get_stats(p2m, &stats);
    CHECK_EQUAL(stats.tlb_flushes, 4096 + 3);
    p2mfast_destroy(p2m);
}

/* Take the events; drop the invalidations. */
static size_t drain_removals(p2mfast_t *p2m)
{
    size_t n = p2mfast_drain_events(p2m, events, MAX_EVENTS);
    size_t kept = 0;

    for (size_t i = 0; i < n; i++)
        if (events[i].kind == P2MFAST_EVENT_MAPPING_REMOVED)
            events[kept++] = events[i];
    return kept;
}

static void test_removals(void)
{
    const uint32_t removed = P2MFAST_EVENT_MAPPING_REMOVED;
    const unsigned rw = P2MFAST_MAP_FOREIGN_RW;
    const unsigned ro = P2MFAST_MAP_FOREIGN_RO;
    p2mfast_t *p2m = p2mfast_create(NULL);

    /* Pages over tables, each followed by an invalidation; a type parts. */
    CHECK_EQUAL(map(p2m, 10, 4 * BLOCK, 0x30000, rw, 0), 0);
    CHECK_EQUAL(map(p2m, 10 + 4 * BLOCK, 7, 0x30000 + 4 * BLOCK, ro, 0), 0);
    CHECK_EQUAL(map(p2m, 9, 4 * BLOCK + 9, NONE, P2MFAST_RAM_RW, 0), 0);
    CHECK_EQUAL(drain_removals(p2m), 2);
    check_event(&events[0], removed, 10, 4 * BLOCK, 0x30000, rw);
    check_event(&events[1], removed, 10 + 4 * BLOCK, 7, 0x30000 + 4 * BLOCK, ro);
    /* A block is shattered; what remains goes later. */
    CHECK_EQUAL(map(p2m, GIB, GIB, 0x200000, rw, 0), 0);
    CHECK_EQUAL(map(p2m, GIB + 700, 900, NONE, P2MFAST_RAM_RW, 0), 0);
    CHECK_EQUAL(map(p2m, GIB + 3000, 1, 0x77, P2MFAST_RAM_RW, 0), 0);
    CHECK_EQUAL(map(p2m, GIB + 3001, 1, 0x200000 + 3001, ro, 0), 0);
    CHECK_EQUAL(drain_removals(p2m), 2);
    check_event(&events[0], removed, GIB + 700, 900, 0x200000 + 700, rw);
    check_event(&events[1], removed, GIB + 3000, 1, 0x200000 + 3000, rw);
    while (p2mfast_relinquish(p2m, UINT64_MAX) == 1)
        ;
    CHECK_EQUAL(drain_removals(p2m), 4);
    check_event(&events[0], removed, GIB, 700, 0x200000, rw);
    check_event(&events[1], removed, GIB + 1600, 1400, 0x200000 + 1600, rw);
    check_event(&events[2], removed, GIB + 3001, 1, 0x200000 + 3001, ro);
    check_event(&events[3], removed, GIB + 3002, GIB - 3002, 0x200000 + 3002, rw);
    check_sound(p2m);
    p2mfast_destroy(p2m);
}

/* What was drained does not grow any more. */
static void test_removals_after_a_drain(void)
{
    p2mfast_t *p2m = p2mfast_create(NULL);

    CHECK_EQUAL(map(p2m, 0, 20, 0x100, P2MFAST_MAP_FOREIGN_RW, 0), 0);
    for (uint64_t gfn = 0; gfn < 20; gfn += 10) {
        CHECK_EQUAL(map(p2m, gfn, 10, NONE, P2MFAST_RAM_RW, 0), 0);
        CHECK_EQUAL(drain_removals(p2m), 1);
        check_event(&events[0], P2MFAST_EVENT_MAPPING_REMOVED, gfn, 10, 0x100 + gfn,
                    P2MFAST_MAP_FOREIGN_RW);
    }
    p2mfast_destroy(p2m);
}

/* Removals are all kept, whatever becomes of the invalidations. */
static void test_removals_outlive_overflow(void)
{
    p2mfast_t *p2m = p2mfast_create(NULL);
    uint64_t pages = 6000;
    uint64_t at = 0;
    size_t n;

    for (uint64_t i = 0; i < pages; i++)
        CHECK_EQUAL(map(p2m, 5, 1, 0x1000 + 2 * i, P2MFAST_MAP_FOREIGN_RW, 0), 0);
    while ((n = p2mfast_drain_events(p2m, events, 100)) > 0) {
        for (size_t i = 0; i < n; i++) {
            if (events[i].kind != P2MFAST_EVENT_MAPPING_REMOVED)
                continue;
            check_event(&events[i], P2MFAST_EVENT_MAPPING_REMOVED, 5, 1, 0x1000 + 2 * at++,
                        P2MFAST_MAP_FOREIGN_RW);
        }
    }
    CHECK_EQUAL(at, pages - 1);
    p2mfast_destroy(p2m);
}

/* A batch that replaces what it has mapped itself. */
static void test_removals_in_one_batch(void)
{
    enum { N = 300 };
    static uint64_t gfns[N];
    static uint64_t mfns[N];
    p2mfast_t *p2m = p2mfast_create(NULL);
    size_t n;

    for (uint64_t i = 0; i < N; i++) {
        gfns[i] = 5;
        mfns[i] = 0x1000 + 2 * i;
    }
    CHECK_EQUAL(p2mfast_set_entries(p2m, gfns, mfns, N, P2MFAST_MAP_FOREIGN_RW, 7, P2MFAST_ARMED),
                0);
    n = drain_removals(p2m);
    CHECK_EQUAL(n, N - 1);
    for (size_t i = 0; i < n; i++)
        check_event(&events[i], P2MFAST_EVENT_MAPPING_REMOVED, 5, 1, 0x1000 + 2 * i,
                    P2MFAST_MAP_FOREIGN_RW);
    check_sound(p2m);
    p2mfast_destroy(p2m);
}

/* ---- A harvest holds the lock for a limited time ---- */

static void test_long_harvest(void)
{
    p2mfast_config_t config = P2MFAST_CONFIG_DEFAULT;
    p2mfast_t *p2m;
    p2mfast_run_t runs[64];
    uint64_t cursor = 0;
    uint64_t collected = 0;
    unsigned calls = 0;
    int more;

    /* One entry of the root above all of it, and a run for each GiB. */
    config.ipa_bits = 48;
    p2m = p2mfast_create(&config);
    for (uint64_t i = 0; i < 5; i++)
        CHECK_EQUAL(map(p2m, i * GIB, GIB, 9 * GIB - i * GIB, P2MFAST_RAM_RW, P2MFAST_MAX_ORDER_0),
                    0);
    do {
        size_t n;

        more = p2mfast_harvest(p2m, &cursor, runs, 64, &n);
        for (size_t i = 0; i < n; i++) {
            CHECK_EQUAL(runs[i].gfn, collected);
            collected += runs[i].nr;
        }
    } while (more == 1 && CHECK(calls++ < 100));
    CHECK_EQUAL(more, 0);
    CHECK_EQUAL(collected, 5 * GIB);
    CHECK(calls > 1);
    p2mfast_destroy(p2m);
}

/* ---- Readers beside a writer ---- */

/* The windows are short: as many rounds as a second has, and no more than these. */
#define ROUNDS 1000000u
#define SECONDS 1.0
#define GFN (3 * BLOCK)
#define OLD (UINT64_C(0x100000))
#define NEW (UINT64_C(0x400000))

struct race {
    p2mfast_t *p2m;
    uint64_t looked;
    uint64_t wrong;
    int done;
};

/* Every page of the block is at OLD or at NEW, by pages or as a block, at any time. */
static bool is_right(uint64_t mfn, uint64_t offset)
{
    return mfn == OLD + offset || mfn == NEW + offset;
}

static void *read_all_the_time(void *argument)
{
    struct race *race = argument;
    uint64_t seed = 7;
    uint64_t wrong = 0;
    uint64_t looked = 0;

    while (!__atomic_load_n(&race->done, __ATOMIC_ACQUIRE)) {
        uint64_t offset = harness_below(&seed, 4) ? harness_below(&seed, BLOCK) : 77;
        p2mfast_entry_t entry;
        p2mfast_translation_t result;

        p2mfast_get_entry(race->p2m, GFN + offset, &entry);
        wrong += !is_right(entry.mfn, offset) || entry.type != P2MFAST_RAM_RW || !entry.valid ||
                 !entry.reachable || (entry.order != 0 && entry.order != 9);
        p2mfast_translate(race->p2m, (GFN + offset) << 12, 7, &result);
        wrong += result.fault || !is_right(result.pa >> 12, offset) || result.level < 2;
        looked++;
    }
    race->looked = looked;
    race->wrong = wrong;
    return NULL;
}

static double seconds(void)
{
    struct timespec now;

    timespec_get(&now, TIME_UTC);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Remap a page, which shatters the block; put it back; remap all; unshatter. Frames are recycled
 * all the while, also for tables elsewhere. */
static void write_all_the_time(p2mfast_t *p2m)
{
    double end = seconds() + SECONDS;

    for (unsigned i = 0; i < ROUNDS && seconds() < end; i++) {
        uint64_t to = i & 1 ? OLD : NEW;
        uint64_t other = 9 * BLOCK + i % 16 * BLOCK;

        CHECK_EQUAL(map(p2m, GFN + 77, 1, to + 77, P2MFAST_RAM_RW, 0), 0);
        CHECK_EQUAL(map(p2m, other, 1, 0x77, P2MFAST_RAM_RW, 0), 0);
        if (i % 3 == 0)
            CHECK_EQUAL(map(p2m, GFN, BLOCK, to, P2MFAST_RAM_RW, P2MFAST_MAX_ORDER_0), 0);
        CHECK_EQUAL(map(p2m, GFN, BLOCK, to, P2MFAST_RAM_RW, 0), 0);
        CHECK_EQUAL(map(p2m, other, BLOCK, NONE, P2MFAST_RAM_RW, 0), 0);
        if (i % 256 == 0)
            while (p2mfast_drain_events(p2m, events, MAX_EVENTS))
                ;
    }
}

static void test_readers_beside_a_writer(void)
{
    struct race race = {.p2m = p2mfast_create(NULL)};
    pthread_t reader;

    CHECK_EQUAL(map(race.p2m, GFN, BLOCK, OLD, P2MFAST_RAM_RW, 0), 0);
    if (!CHECK_EQUAL(pthread_create(&reader, NULL, read_all_the_time, &race), 0))
        return;
    write_all_the_time(race.p2m);
    __atomic_store_n(&race.done, 1, __ATOMIC_RELEASE);
    CHECK_EQUAL(pthread_join(reader, NULL), 0);
    CHECK(race.looked > 0);
    CHECK_EQUAL(race.wrong, 0);
    check_sound(race.p2m);
    p2mfast_destroy(race.p2m);
}

int main(void)
{
    RUN(test_create_and_destroy);
    RUN(test_wrong_configurations);
    RUN(test_table_base);
    RUN(test_tables_end_with_the_space);
    RUN(test_tables_stay);
    RUN(test_quota);
    RUN(test_invalidations);
    RUN(test_invalidations_overflow);
    RUN(test_removals);
    RUN(test_removals_after_a_drain);
    RUN(test_removals_outlive_overflow);
    RUN(test_long_harvest);
    RUN(test_readers_beside_a_writer);
    RUN(test_removals_in_one_batch);
    return harness_finish();
}
