/*
 * Images that somebody hostile made: random tables that point at each other, outside, and to
 * themselves. Nothing is read outside the image (that is for the sanitizers to see), every scan
 * ends, and what it says agrees with looking at one address at a time.
 *
 * Usage: test_image [ROUNDS]
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "descriptor.h"
#include "image.h"

#define MAX_TABLES 4
#define SEGMENTS 3

static uint64_t seed = 0x9e3779b97f4a7c15;

static uint64_t random_word(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static uint64_t below(uint64_t n)
{
    return random_word() % n;
}

static void fail(const char *what, uint64_t round)
{
    fprintf(stderr, "test_image: %s in round %llu\n", what, (unsigned long long)round);
    exit(1);
}

/* ---- An image ---- */

struct fuzz {
    struct image_segment segments[SEGMENTS];
    uint8_t *memory[SEGMENTS]; /* each of its own, so that the sanitizer sees its end */
    uint64_t vtcr;
    uint64_t vttbr;
    struct image image;
};

static const uint64_t vtcrs[] = {
    0x80023558, /* 40 bits, two root tables at level 1 */
    0x80053590, /* 48 bits from level 0 */
    0x80013560, /* 32 bits from level 1 */
    0x80003558, /* AArch32, 40 bits */
    0x80003500, /* AArch32, 32 bits from level 2: as many root tables as there can be */
    0x80053556, /* 42 bits, eight root tables at level 1 */
    0x80053559, /* 39 bits from level 2: too many root tables */
    0x80053594, /* 44 bits from level 0 */
};

/* Where a table may be asked for: mostly inside, by chance not. */
static uint64_t some_address(const struct fuzz *fuzz)
{
    const struct image_segment *segment = &fuzz->segments[below(SEGMENTS)];
    uint64_t pages = segment->bytes / TABLE_BYTES;

    if (below(16) == 0)
        return random_word() & PTE_ADDRESS;
    return (segment->pa & ~(uint64_t)(TABLE_BYTES - 1)) + below(pages + 2) * TABLE_BYTES;
}

static uint64_t some_descriptor(const struct fuzz *fuzz)
{
    uint64_t type = below(4) ? 1 + below(15) : 0;

    switch (below(8)) {
    case 0:
        return random_word();
    case 1:
    case 2:
    case 3:
        return some_address(fuzz) | type << PTE_TYPE_SHIFT | 2 | below(2);
    case 4:
        return 0;
    default:
        return (random_word() & PTE_ADDRESS & ~(uint64_t)0x3fffffff) | type << PTE_TYPE_SHIFT |
               0x7fc | below(4);
    }
}

static void put(uint8_t *bytes, size_t i, uint64_t word)
{
    memcpy(bytes + i * sizeof(word), &word, sizeof(word));
}

static void fill(const struct fuzz *fuzz, uint8_t *bytes, uint64_t size)
{
    uint64_t words = size / sizeof(uint64_t);

    for (uint64_t pieces = below(words / 32); pieces; pieces--) {
        uint64_t start = below(4) ? below(words) : below(words) / TABLE_WORDS * TABLE_WORDS;
        uint64_t end = start + 1 + (below(8) ? below(4) : below(TABLE_WORDS));
        uint64_t step = below(3) ? (uint64_t)TABLE_BYTES << 9 * below(3) : 0;
        uint64_t word = some_descriptor(fuzz);

        for (uint64_t i = start; i < end && i < words; i++, word += step)
            put(bytes, i, word);
    }
}

static void make(struct fuzz *fuzz, uint64_t round)
{
    uint64_t pa = 0;

    for (size_t i = 0; i < SEGMENTS; i++) {
        uint64_t size = (1 + below(MAX_TABLES)) * TABLE_BYTES + (below(4) ? 0 : below(TABLE_BYTES));
        /* Now and then not aligned, in the file or in memory, and not to words. */
        size_t skew = below(4) ? 0 : below(16);

        pa += below(4) * TABLE_BYTES + (below(8) ? 0 : below(TABLE_BYTES));
        fuzz->memory[i] = malloc(size + skew);
        if (!fuzz->memory[i])
            fail("no memory", round);
        memset(fuzz->memory[i], 0, size + skew);
        fuzz->segments[i] = (struct image_segment){pa, size, fuzz->memory[i] + skew, 0};
        pa += size;
    }
    for (size_t i = 0; i < SEGMENTS; i++)
        fill(fuzz, fuzz->memory[i] + (fuzz->segments[i].data - fuzz->memory[i]),
             fuzz->segments[i].bytes);
    fuzz->vtcr = below(32) ? vtcrs[below(sizeof(vtcrs) / sizeof(vtcrs[0]))] : random_word();
    fuzz->vttbr = some_address(fuzz) & ~(below(4) ? (uint64_t)0xffff : 0);
}

static void destroy(struct fuzz *fuzz)
{
    for (size_t i = 0; i < SEGMENTS; i++)
        free(fuzz->memory[i]);
}

/* ---- What is said of it ---- */

static bool grow(struct image_list *list, size_t bytes)
{
    size_t capacity = list->capacity ? 2 * list->capacity : 16;
    void *items = realloc(list->items, capacity * bytes);

    if (!items)
        return false;
    list->items = items;
    list->capacity = capacity;
    return true;
}

static bool refuse(struct image_list *list, size_t bytes)
{
    return list->n < 3 && grow(list, bytes);
}

static void free_scan(struct image_scan *scan)
{
    free(scan->extents.items);
    free(scan->tables.items);
    free(scan->findings.items);
    free(scan->marks);
}

static struct image_scan scan_of(const struct image *image, uint64_t round,
                                 bool (*room)(struct image_list *, size_t), int *error)
{
    struct image_scan scan = {.most_extents = UINT64_MAX, .grow = room};

    scan.marks = calloc(image->pages + 1, 1);
    if (!scan.marks)
        fail("no memory", round);
    *error = image_scan(image, &scan);
    return scan;
}

static void check_tables(const struct image_scan *scan, uint64_t round)
{
    const struct image_table *tables = scan->tables.items;

    if (scan->tables.n > SEGMENTS * (MAX_TABLES + 1))
        fail("more tables than the image has", round);
    for (size_t i = 0; i < scan->tables.n; i++)
        for (size_t j = 0; j < i; j++)
            if (tables[i].pa == tables[j].pa)
                fail("a table twice", round);
}

/* The leaf that a walk ends at is in an extent that says the same. */
static void check_address(const struct image *image, const struct image_extent *extent,
                          uint64_t offset, uint64_t round)
{
    struct image_step steps[LEVELS];
    uint64_t gfn = extent->gfn + offset;
    size_t n = image_walk(image, gfn, steps);
    const struct image_step *last = &steps[n - 1];
    const uint64_t attributes = ~(PTE_ADDRESS | PTE_TABLE | PTE_VALID);
    p2mfast_translation_t result;
    bool reachable = true;
    bool fits;

    for (size_t i = 0; i < n; i++)
        reachable &= pte_is_valid(steps[i].descriptor);
    if (!last->inside || last->level != extent->level ||
        (last->descriptor & attributes) != extent->attrs ||
        pte_is_valid(last->descriptor) != extent->valid || reachable != extent->reachable)
        fail("an extent that a walk does not agree with", round);
    image_translate(image, gfn << PAGE_SHIFT, 1, &result);
    if (!extent->reachable) {
        if (result.fault != P2MFAST_FAULT_TRANSLATION && result.fault != P2MFAST_FAULT_ADDRESS_SIZE)
            fail("an unreachable page that is translated", round);
        return;
    }
    fits = !((extent->mfn + offset) << PAGE_SHIFT >> image->geometry.pa_bits) &&
           !((last->descriptor & PTE_ADDRESS) >> image->geometry.pa_bits);
    if (fits && (extent->attrs & (PTE_AF | PTE_READ)) == (PTE_AF | PTE_READ) &&
        (result.fault || result.pa != (extent->mfn + offset) << PAGE_SHIFT) &&
        result.fault != P2MFAST_FAULT_ADDRESS_SIZE)
        fail("a page that is translated to another", round);
}

static void check_extents(const struct image *image, const struct image_scan *scan, uint64_t round)
{
    const struct image_extent *extents = scan->extents.items;
    const uint64_t *totals = &scan->pages[0][0][0][0];
    uint64_t end = 0;
    uint64_t pages = 0;

    for (size_t i = 0; i < scan->extents.n; i++) {
        if (!extents[i].nr || extents[i].gfn < end)
            fail("extents that do not ascend", round);
        end = extents[i].gfn + extents[i].nr;
        pages += extents[i].nr;
        if (end > image->geometry.gfn_limit ||
            extents[i].mfn + extents[i].nr > image->geometry.mfn_limit)
            fail("an extent beyond the space", round);
        check_address(image, &extents[i], 0, round);
        check_address(image, &extents[i], extents[i].nr - 1, round);
        check_address(image, &extents[i], below(extents[i].nr), round);
    }
    for (size_t i = 0; i < sizeof(scan->pages) / sizeof(*totals); i++)
        pages -= totals[i];
    if (pages || scan->extents_found != scan->extents.n)
        fail("totals that the extents do not agree with", round);
}

/* Any address at all ends somewhere. */
static void look_around(const struct image *image)
{
    struct image_step steps[LEVELS];
    p2mfast_translation_t result;

    for (int i = 0; i < 16; i++) {
        uint64_t ipa = random_word() >> below(64);

        image_translate(image, ipa, 1 + (unsigned)below(7), &result);
        image_walk(image, (ipa >> PAGE_SHIFT) % image->geometry.gfn_limit, steps);
    }
}

/* How many findings the round had. */
static uint64_t one_round(uint64_t round)
{
    struct fuzz fuzz;
    struct image_scan scan;
    uint64_t found = 0;
    int error;

    make(&fuzz, round);
    if (!image_init(&fuzz.image, fuzz.vtcr, fuzz.vttbr, 0, fuzz.segments, SEGMENTS)) {
        scan = scan_of(&fuzz.image, round, grow, &error);
        if (error)
            fail("a scan that failed", round);
        check_tables(&scan, round);
        check_extents(&fuzz.image, &scan, round);
        look_around(&fuzz.image);
        for (unsigned kind = 0; kind < IMAGE_FINDING_KINDS; kind++)
            found += scan.found[kind];
        free_scan(&scan);
        if (below(16) == 0) {
            scan = scan_of(&fuzz.image, round, refuse, &error);
            if (error && error != P2MFAST_ERROR_MEMORY)
                fail("another error than that of memory", round);
            free_scan(&scan);
        }
    }
    destroy(&fuzz);
    return found;
}

int main(int argc, char **argv)
{
    uint64_t rounds = argc > 1 ? strtoull(argv[1], NULL, 0) : 1000000;
    uint64_t found = 0;

    for (uint64_t round = 0; round < rounds; round++)
        found += one_round(round);
    printf("%llu images, %llu findings\n", (unsigned long long)rounds, (unsigned long long)found);
    return 0;
}
