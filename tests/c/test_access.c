/*
 * mem_access through the library's public header: what is kept, what changes in the descriptors,
 * and readers beside a writer.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "harness.h"
#include "p2mfast/p2mfast.h"

#include <pthread.h>
#include <stdlib.h>

#define BLOCK 512u
#define GIB (BLOCK * BLOCK)
#define NONE P2MFAST_INVALID_MFN
#define MAX_EVENTS 64
#define GFN (GIB + 3 * BLOCK)
#define OLD (5 * BLOCK)

static p2mfast_event_t events[MAX_EVENTS];

struct race {
    p2mfast_t *p2m;
    uint64_t looked;
    uint64_t wrong;
    int done;
};

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

#define RIGHTS (UINT64_C(1) << 54 | UINT64_C(3) << 6) /* XN and S2AP of a leaf */

static unsigned access_of(p2mfast_t *p2m, uint64_t gfn)
{
    p2mfast_entry_t one;
    p2mfast_entry_t many;

    CHECK_EQUAL(p2mfast_get_entry(p2m, gfn, &one), 0);
    CHECK_EQUAL(p2mfast_get_entries(p2m, &gfn, 1, &many), 0);
    CHECK_EQUAL(one.access, many.access);
    return one.access;
}

static void test_access_is_kept(void)
{
    p2mfast_t *p2m = p2mfast_create(NULL);

    CHECK_EQUAL(p2mfast_enable_mem_access(p2m, 1), 0);
    CHECK_EQUAL(p2mfast_set_entry(p2m, GIB, BLOCK, GIB, P2MFAST_RAM_RW, P2MFAST_ACCESS_RX, 0), 0);
    CHECK_EQUAL(p2mfast_set_entry(p2m, GIB + 7, 1, GIB + 7, P2MFAST_RAM_RW, P2MFAST_ACCESS_N, 0),
                0);
    CHECK_EQUAL(access_of(p2m, GIB + 6), P2MFAST_ACCESS_RX);
    CHECK_EQUAL(access_of(p2m, GIB + 7), P2MFAST_ACCESS_N);
    CHECK_EQUAL(access_of(p2m, GIB + BLOCK), P2MFAST_NO_ACCESS);
    CHECK_EQUAL(p2mfast_enable_mem_access(p2m, 0), 0);
    CHECK_EQUAL(access_of(p2m, GIB + 7), P2MFAST_ACCESS_RWX);
    CHECK_EQUAL(p2mfast_enable_mem_access(p2m, 1), 0);
    CHECK_EQUAL(access_of(p2m, GIB + 7), P2MFAST_ACCESS_N);
    CHECK_EQUAL(map(p2m, GIB + 7, 1, NONE, 0, 0), 0);
    CHECK_EQUAL(map(p2m, GIB + 7, 1, 3, P2MFAST_RAM_RW, 0), 0);
    CHECK_EQUAL(access_of(p2m, GIB + 7), P2MFAST_ACCESS_RWX);
    check_sound(p2m);
    p2mfast_destroy(p2m);
}

/* Only rights change, valid or armed; a superpage is split for it; one invalidation in the end. */
static void test_rights_change_in_place(void)
{
    p2mfast_t *p2m = p2mfast_create(NULL);
    static p2mfast_word_t before[2 * BLOCK];
    static p2mfast_word_t after[2 * BLOCK];
    size_t n;

    CHECK_EQUAL(map(p2m, 0, 300, 1, P2MFAST_RAM_RW, P2MFAST_ARMED), 0);
    CHECK_EQUAL(map(p2m, 310, 202, 311, P2MFAST_RAM_RW, 0), 0);
    n = p2mfast_words(p2m, 3, before, BLOCK);
    CHECK_EQUAL(n, 502);
    while (p2mfast_drain_events(p2m, events, MAX_EVENTS))
        ;
    CHECK_EQUAL(p2mfast_set_mem_access(p2m, 0, BLOCK, P2MFAST_ACCESS_R), 0);
    CHECK_EQUAL(p2mfast_drain_events(p2m, events, MAX_EVENTS), 1);
    CHECK(events[0].gfn <= 310 && events[0].gfn + events[0].nr >= BLOCK);
    CHECK_EQUAL(p2mfast_words(p2m, 3, after, BLOCK), n);
    for (size_t i = 0; i < n; i++)
        CHECK_EQUAL(after[i].raw, (before[i].raw & ~RIGHTS) | UINT64_C(1) << 54 | 1 << 6);
    CHECK_EQUAL(access_of(p2m, 305), P2MFAST_NO_ACCESS);
    CHECK_EQUAL(p2mfast_set_mem_access(p2m, 0, 1, 11), P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(p2mfast_set_mem_access(p2m, 0, 0, 1), P2MFAST_ERROR_ARGUMENT);
    CHECK_EQUAL(p2mfast_set_mem_access(p2m, 1 << 28, 1, 1), P2MFAST_ERROR_RANGE);
    check_sound(p2m);
    p2mfast_destroy(p2m);
}

static void test_access_without_tables(void)
{
    p2mfast_config_t config = P2MFAST_CONFIG_DEFAULT;
    p2mfast_t *p2m;

    config.max_tables = 2;
    p2m = p2mfast_create(&config);
    CHECK_EQUAL(map(p2m, 0, 2 * BLOCK, 0, P2MFAST_RAM_RW, 0), 0);
    CHECK_EQUAL(p2mfast_set_mem_access(p2m, 1, BLOCK, P2MFAST_ACCESS_R), P2MFAST_ERROR_TABLES);
    CHECK(!p2mfast_mem_access_enabled(p2m));
    CHECK_EQUAL(p2mfast_set_mem_access(p2m, 1, 1, P2MFAST_ACCESS_R), 0);
    CHECK_EQUAL(access_of(p2m, 1), P2MFAST_ACCESS_R);
    CHECK_EQUAL(access_of(p2m, BLOCK), P2MFAST_ACCESS_RWX);
    check_sound(p2m);
    p2mfast_destroy(p2m);
}

static void *read_access_all_the_time(void *argument)
{
    struct race *race = argument;
    uint64_t gfns[BLOCK];
    p2mfast_entry_t found[BLOCK];

    for (uint64_t i = 0; i < BLOCK; i++)
        gfns[i] = GFN + i;
    do {
        p2mfast_get_entries(race->p2m, gfns, BLOCK, found);
        for (unsigned i = 0; i < BLOCK; i++)
            race->wrong += found[i].mfn != OLD + i || (found[i].access != P2MFAST_ACCESS_R &&
                                                       found[i].access != P2MFAST_ACCESS_RWX);
        race->looked++;
    } while (!__atomic_load_n(&race->done, __ATOMIC_ACQUIRE));
    return NULL;
}

static void test_readers_of_access(void)
{
    struct race race = {.p2m = p2mfast_create(NULL)};
    pthread_t reader;

    CHECK_EQUAL(map(race.p2m, GFN, BLOCK, OLD, P2MFAST_RAM_RW, P2MFAST_MAX_ORDER_0), 0);
    if (!CHECK_EQUAL(pthread_create(&reader, NULL, read_access_all_the_time, &race), 0))
        return;
    for (unsigned i = 0; i < 500; i++)
        CHECK_EQUAL(p2mfast_set_mem_access(race.p2m, GFN + i % 7, BLOCK - 7,
                                           i & 1 ? P2MFAST_ACCESS_RWX : P2MFAST_ACCESS_R),
                    0);
    __atomic_store_n(&race.done, 1, __ATOMIC_RELEASE);
    CHECK_EQUAL(pthread_join(reader, NULL), 0);
    CHECK(race.looked > 0);
    CHECK_EQUAL(race.wrong, 0);
    p2mfast_destroy(race.p2m);
}

int main(void)
{
    RUN(test_access_is_kept);
    RUN(test_rights_change_in_place);
    RUN(test_access_without_tables);
    RUN(test_readers_of_access);
    return harness_finish();
}
