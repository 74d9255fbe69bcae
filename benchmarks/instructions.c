/*
 * One loop of the engine, for a number of rounds: callgrind counts its instructions
 * (instructions.sh), which do not drift with the machine's load.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "p2mfast/p2mfast.h"

#define PAGES ((uint64_t)1 << 15)
#define BATCH 4096

static p2mfast_t *p2m;
static uint64_t gfns[BATCH], ipas[BATCH], holes[BATCH];
static p2mfast_entry_t entries[BATCH];
static p2mfast_translation_t translations[BATCH];
static p2mfast_run_t runs[PAGES];
static uint8_t resolved[BATCH];

static void map(void)
{
    p2mfast_set_entry(p2m, 0, PAGES, 1, P2MFAST_RAM_RW, P2MFAST_ACCESS_RWX, 0);
}

static void unmap(void)
{
    p2mfast_set_entry(p2m, 0, PAGES, P2MFAST_INVALID_MFN, 0, 0, 0);
}

static void map_scattered(void)
{
    p2mfast_set_entries(p2m, gfns, gfns, BATCH, P2MFAST_RAM_RW, P2MFAST_ACCESS_RWX, 0);
}

static void unmap_scattered(void)
{
    p2mfast_set_entries(p2m, gfns, holes, BATCH, P2MFAST_RAM_RW, P2MFAST_ACCESS_RWX, 0);
}

static void look_up(void)
{
    p2mfast_get_entries(p2m, gfns, BATCH, entries);
}

static void look_up_singly(void)
{
    for (int i = 0; i < BATCH; i++)
        p2mfast_get_entry(p2m, gfns[i], &entries[i]);
}

static void translate(void)
{
    p2mfast_translate_many(p2m, ipas, BATCH, 1, translations);
}

static void scan(void)
{
    p2mfast_flush_t flush = {0, 0, 0, 0, 0};
    size_t n;

    p2mfast_cache_flush_range(p2m, &flush, PAGES, P2MFAST_SKIP_PATH, P2MFAST_UNLIMITED, runs, PAGES,
                              &n);
}

static void resolve(void)
{
    p2mfast_resolve_translation_faults(p2m, gfns, BATCH, P2MFAST_DEPTH_PATH, 0, resolved);
}

static void arm(void)
{
    p2mfast_invalidate_root(p2m);
}

static void nothing(void)
{
}

static const struct {
    const char *name;
    void (*prepare)(void);
    void (*work)(void);
    unsigned units;
} loops[] = {
    {"map", unmap, map, PAGES},
    {"map-scattered", unmap_scattered, map_scattered, BATCH},
    {"look-up", nothing, look_up, BATCH},
    {"look-up-singly", nothing, look_up_singly, BATCH},
    {"translate", nothing, translate, BATCH},
    {"scan", nothing, scan, PAGES},
    {"resolve", arm, resolve, BATCH},
};

/* Callgrind collects in here. */
__attribute__((noinline)) void counted(void (*work)(void))
{
    work();
}

/* instructions LOOP ROUNDS: prints the units of all rounds. */
int main(int argc, char **argv)
{
    int rounds = argc == 3 ? atoi(argv[2]) : 0;
    uint64_t random = 88172645463325252u;

    p2m = p2mfast_create(NULL);
    map();
    for (uint64_t i = 0; i < BATCH; i++) { /* all different: an odd factor permutes the pages */
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        gfns[i] = (i * 8 + random % 8) * 12345 % PAGES;
        ipas[i] = gfns[i] << 12;
        holes[i] = P2MFAST_INVALID_MFN;
    }
    for (size_t loop = 0; loop < sizeof(loops) / sizeof(loops[0]); loop++) {
        if (argc != 3 || strcmp(argv[1], loops[loop].name))
            continue;
        for (int round = 0; round < rounds; round++) {
            loops[loop].prepare();
            counted(loops[loop].work);
        }
        printf("%u\n", loops[loop].units * (unsigned)rounds);
        return 0;
    }
    fprintf(stderr, "usage: instructions LOOP ROUNDS; loops:");
    for (size_t loop = 0; loop < sizeof(loops) / sizeof(loops[0]); loop++)
        fprintf(stderr, " %s", loops[loop].name);
    fprintf(stderr, "\n");
    return 2;
}
