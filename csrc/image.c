/*
 * Reading tables that are not ours.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "image.h"
#include "translation.h"
#include "vec.h"

#define TABLE_MASK ((uint64_t)TABLE_BYTES - 1)

/* Reserved bits of every stage-2 descriptor with 48-bit addresses, and of table descriptors
 * (Arm ARM D8.3.1). What lies above 58 in a leaf belongs to the SMMU, PBHA and realms. */
#define PTE_RESERVED ((uint64_t)7 << 48)
#define PTE_TABLE_RESERVED (PTE_RESERVED | (uint64_t)0x1f << 59)

/* Words that are compared at a time. */
#define GROUP 16

enum { MARK_NEW, MARK_ON_THE_WAY, MARK_DONE };

int image_init(struct image *image, uint64_t vtcr, uint64_t vttbr, unsigned pa_bits,
               struct image_segment *segments, size_t n)
{
    int error = geometry_from_vtcr(&image->geometry, vtcr, pa_bits);
    uint64_t end = 0;

    if (!error)
        error = geometry_root(&image->geometry, vttbr, &image->root);
    if (error)
        return error;
    image->segments = segments;
    image->n = n;
    image->pages = 0;
    for (size_t i = 0; i < n; i++) {
        if (segments[i].pa < end || segments[i].bytes > UINT64_MAX - segments[i].pa)
            return P2MFAST_ERROR_ARGUMENT;
        end = segments[i].pa + segments[i].bytes;
        segments[i].first_mark = image->pages;
        image->pages += segments[i].bytes / TABLE_BYTES + 2; /* a part of a page at either end */
    }
    return 0;
}

/* ---- Memory ---- */

/* The segment that holds the whole table at pa, or NULL. */
static const struct image_segment *segment_of(const struct image *image, uint64_t pa)
{
    size_t low = 0;
    size_t high = image->n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct image_segment *segment = &image->segments[middle];

        if (pa < segment->pa)
            high = middle;
        else if (pa - segment->pa >= segment->bytes)
            low = middle + 1;
        else
            return segment->bytes - (pa - segment->pa) >= TABLE_BYTES ? segment : NULL;
    }
    return NULL;
}

/* Its mark; the segment may begin inside a page. */
static uint64_t mark_of(const struct image_segment *segment, uint64_t pa)
{
    return segment->first_mark + (pa - segment->pa + TABLE_MASK) / TABLE_BYTES;
}

/* What was dumped may lie at any byte of its file. */
static uint64_t word_at(const uint8_t *table, uint64_t index)
{
    uint64_t word;

    __builtin_memcpy(&word, table + index * sizeof(word), sizeof(word));
    return word;
}

static bool is_present(uint64_t pte)
{
    return pte & (PTE_VALID | PTE_TYPE);
}

/* Bit 1 clear: reserved at level 3, and no blocks above 1 GiB. */
static bool maps_nothing(uint64_t pte, int level)
{
    return !(pte & PTE_TABLE) && (level == LEAF_LEVEL || level < LEAF_LEVEL - 2);
}

/* ---- The scan ---- */

struct scan {
    const struct image *image;
    struct image_scan *out;
    struct image_extent last; /* nr 0: there is none yet */
    int error;
};

/* A table being read. */
struct place {
    const uint64_t *words;
    uint64_t pa;
    uint64_t gfn;
    int level;
    bool reachable;
};

static void *append(struct scan *scan, struct image_list *list, size_t bytes)
{
    if (list->n == list->capacity && !scan->out->grow(list, bytes)) {
        scan->error = P2MFAST_ERROR_MEMORY;
        return NULL;
    }
    return (uint8_t *)list->items + list->n++ * bytes;
}

static void find(struct scan *scan, enum image_finding_kind kind, const struct place *place,
                 uint64_t index, uint64_t value)
{
    uint64_t pages = level_pages(&scan->image->geometry, place->level);
    struct image_finding *finding;

    if (scan->out->found[kind]++ >= IMAGE_FINDINGS_LISTED)
        return;
    finding = append(scan, &scan->out->findings, sizeof(*finding));
    if (finding)
        *finding = (struct image_finding){.gfn = place->gfn + index * pages,
                                          .value = value,
                                          .table = place->pa,
                                          .index = (uint16_t)index,
                                          .kind = (uint8_t)kind,
                                          .level = (int8_t)place->level};
}

static void add_extent(struct scan *scan, struct image_extent extent)
{
    struct image_scan *out = scan->out;
    struct image_extent *last = &scan->last;
    bool goes_on =
        last->nr && last->gfn + last->nr == extent.gfn && last->mfn + last->nr == extent.mfn;
    struct image_extent *listed;
    uint64_t limit = (uint64_t)1 << (scan->image->geometry.pa_bits - PAGE_SHIFT);
    uint64_t beyond = extent.mfn + extent.nr > limit ? extent.mfn + extent.nr - limit : 0;

    out->pages[pte_type(extent.attrs)][extent.level][extent.valid][extent.reachable] += extent.nr;
    out->beyond += beyond < extent.nr ? beyond : extent.nr;
    out->ranges_found += !(goes_on && last->attrs == extent.attrs);
    out->runs_found += !(goes_on && pte_type(last->attrs) == pte_type(extent.attrs));
    if (goes_on && last->attrs == extent.attrs && last->level == extent.level &&
        last->valid == extent.valid && last->reachable == extent.reachable) {
        last->nr += extent.nr;
        if (out->extents_found == out->extents.n)
            ((struct image_extent *)out->extents.items)[out->extents.n - 1].nr = last->nr;
        return;
    }
    *last = extent;
    if (out->extents_found++ >= out->most_extents)
        return;
    listed = append(scan, &out->extents, sizeof(*listed));
    if (listed)
        *listed = extent;
}

/* n leaves from index on: the first is `pte`, the others each the one before it and a step. */
static void read_leaves(struct scan *scan, const struct place *place, uint64_t index, uint64_t n,
                        uint64_t pte)
{
    const struct geometry *geometry = &scan->image->geometry;
    unsigned order = level_order(geometry, place->level);
    uint64_t mfn = align_down(pte_mfn(geometry, pte), order);

    if (pte & PTE_RESERVED || pte_mfn(geometry, pte) != mfn)
        for (uint64_t i = index; i < index + n; i++) {
            uint64_t word = pte + (i - index) * ((uint64_t)TABLE_BYTES << order);

            if (pte & PTE_RESERVED)
                find(scan, IMAGE_RESERVED, place, i, word);
            if (pte_mfn(geometry, pte) != mfn)
                find(scan, IMAGE_MISALIGNED, place, i, word);
        }
    add_extent(scan, (struct image_extent){
                         .gfn = place->gfn + (index << order),
                         .mfn = mfn,
                         .nr = n << order,
                         .attrs = pte & ~(geometry->address_mask | PTE_TABLE | PTE_VALID),
                         .level = (int8_t)place->level,
                         .valid = pte_is_valid(pte),
                         .reachable = place->reachable && pte_is_valid(pte),
                     });
}

/* How many of the words [index, end) go on from the first, the leaf `pte`: address by address up to
 * the last that a descriptor holds, all else alike. */
static uint64_t count_alike(const struct scan *scan, const struct place *place, uint64_t index,
                            uint64_t end, uint64_t pte)
{
    const struct geometry *geometry = &scan->image->geometry;
    unsigned order = level_order(geometry, place->level);
    uint64_t step = (uint64_t)TABLE_BYTES << order;
    uint64_t room = ((geometry->mfn_limit - 1 - pte_mfn(geometry, pte)) >> order) + 1;
    uint64_t limit = end - index < room ? end - index : room;
    uint64_t n = 1;

    if (limit == TABLE_WORDS && vec_portable.follows(place->words, TABLE_WORDS, pte, step))
        return TABLE_WORDS;
    while (n + GROUP <= limit &&
           vec_portable.follows(&place->words[index + n], GROUP, pte + step, step)) {
        n += GROUP;
        pte += GROUP * step;
    }
    while (n < limit && place->words[index + n] == (pte += step))
        n++;
    return n;
}

static void scan_table(struct scan *scan, const uint8_t *data, struct place place);

static void follow(struct scan *scan, const struct place *place, uint64_t index, uint64_t pte)
{
    const struct image *image = scan->image;
    uint64_t pa = pte & image->geometry.address_mask;
    const struct image_segment *segment = segment_of(image, pa);
    uint64_t gfn = place->gfn + index * level_pages(&image->geometry, place->level);
    bool reachable = place->reachable && pte_is_valid(pte);
    struct image_table *table;
    uint8_t *mark;

    if (pte & PTE_TABLE_RESERVED)
        find(scan, IMAGE_RESERVED, place, index, pte);
    if (!segment) {
        find(scan, IMAGE_OUTSIDE, place, index, pte);
        return;
    }
    mark = &scan->out->marks[mark_of(segment, pa)];
    if (*mark != MARK_NEW) {
        find(scan, *mark == MARK_DONE ? IMAGE_TWICE : IMAGE_LOOP, place, index, pte);
        return;
    }
    table = append(scan, &scan->out->tables, sizeof(*table));
    if (!table)
        return;
    *table = (struct image_table){.pa = pa,
                                  .gfn = gfn,
                                  .level = (int8_t)(place->level + 1),
                                  .valid = pte_is_valid(pte),
                                  .reachable = reachable};
    *mark = MARK_ON_THE_WAY;
    scan_table(scan, segment->data + (pa - segment->pa),
               (struct place){NULL, pa, gfn, place->level + 1, reachable});
    *mark = MARK_DONE;
}

static void scan_table(struct scan *scan, const uint8_t *data, struct place place)
{
    const struct geometry *geometry = &scan->image->geometry;
    uint64_t left = (geometry->gfn_limit - place.gfn) >> level_order(geometry, place.level);
    uint64_t end = left < TABLE_WORDS ? left : TABLE_WORDS;
    uint64_t aligned[TABLE_WORDS];

    place.words = (const uint64_t *)data;
    if ((uintptr_t)data % sizeof(uint64_t)) {
        __builtin_memcpy(aligned, data, TABLE_BYTES);
        place.words = aligned;
    }
    for (uint64_t i = 0, n; i < end && !scan->error; i += n) {
        uint64_t pte = __atomic_load_n(&place.words[i], __ATOMIC_RELAXED);

        n = 1;
        if (!is_present(pte)) {
            scan->out->ignored += pte != 0;
        } else if (pte_is_table(pte, place.level)) {
            follow(scan, &place, i, pte);
        } else if (maps_nothing(pte, place.level)) {
            find(scan, IMAGE_ENCODING, &place, i, pte);
        } else {
            n = count_alike(scan, &place, i, end, pte);
            read_leaves(scan, &place, i, n, pte);
        }
    }
}

/* A pointer to a root table other than the one above it reaches it a second time. */
static void mark_roots(struct scan *scan)
{
    for (unsigned i = 0; i < scan->image->geometry.root_pages; i++) {
        uint64_t pa = scan->image->root + i * (uint64_t)TABLE_BYTES;
        const struct image_segment *segment = segment_of(scan->image, pa);

        if (segment)
            scan->out->marks[mark_of(segment, pa)] = MARK_DONE;
    }
}

static void scan_root(struct scan *scan, unsigned i)
{
    const struct geometry *geometry = &scan->image->geometry;
    uint64_t pa = scan->image->root + i * (uint64_t)TABLE_BYTES;
    uint64_t gfn = (uint64_t)i * TABLE_WORDS * level_pages(geometry, geometry->root_level);
    const struct image_segment *segment = segment_of(scan->image, pa);
    const struct place place = {NULL, pa, gfn, geometry->root_level, true};
    struct image_table *table;

    if (!segment) {
        find(scan, IMAGE_OUTSIDE, &place, 0, pa);
        return;
    }
    table = append(scan, &scan->out->tables, sizeof(*table));
    if (!table)
        return;
    *table = (struct image_table){
        .pa = pa, .gfn = gfn, .level = geometry->root_level, .valid = 1, .reachable = 1};
    scan->out->marks[mark_of(segment, pa)] = MARK_ON_THE_WAY;
    scan_table(scan, segment->data + (pa - segment->pa), place);
    scan->out->marks[mark_of(segment, pa)] = MARK_DONE;
}

int image_scan(const struct image *image, struct image_scan *out)
{
    struct scan scan = {.image = image, .out = out};

    out->ignored = out->beyond = out->extents_found = out->ranges_found = out->runs_found = 0;
    __builtin_memset(out->pages, 0, sizeof(out->pages));
    for (unsigned kind = 0; kind < IMAGE_FINDING_KINDS; kind++)
        out->found[kind] = 0;
    mark_roots(&scan);
    for (unsigned i = 0; i < image->geometry.root_pages && !scan.error; i++)
        scan_root(&scan, i);
    return scan.error;
}

/* ---- One address ---- */

/* The table's bytes; *pa: first the root, whose pages are taken as one, and the index in them. */
static const uint8_t *table_at(const struct image *image, uint64_t *pa, uint64_t *index)
{
    const struct image_segment *segment;

    *pa += *index / TABLE_WORDS * TABLE_BYTES;
    *index %= TABLE_WORDS;
    segment = segment_of(image, *pa);
    return segment ? segment->data + (*pa - segment->pa) : NULL;
}

size_t image_walk(const struct image *image, uint64_t gfn, struct image_step steps[LEVELS])
{
    const struct geometry *geometry = &image->geometry;
    uint64_t pa = image->root;
    size_t n = 0;

    for (int level = geometry->root_level;; level++) {
        uint64_t index = level_index(geometry, level, gfn);
        const uint8_t *table = table_at(image, &pa, &index);
        uint64_t pte = table ? word_at(table, index) : 0;

        steps[n++] = (struct image_step){.table = pa,
                                         .descriptor = pte,
                                         .index = (uint16_t)index,
                                         .level = (int8_t)level,
                                         .inside = table != NULL};
        if (!is_present(pte) || !pte_is_table(pte, level))
            return n;
        pa = pte & geometry->address_mask;
    }
}

void image_translate(const struct image *image, uint64_t ipa, unsigned access,
                     p2mfast_translation_t *result)
{
    const struct geometry *geometry = &image->geometry;
    uint64_t gfn = ipa >> PAGE_SHIFT;
    uint64_t pa = image->root;
    enum walk_outcome outcome = WALK_NEXT;
    struct walk walk;

    if (ipa >> geometry->ipa_bits) { /* beyond the input size: a fault of level 0 */
        set_fault(result, 0, P2MFAST_FAULT_TRANSLATION);
        return;
    }
    walk_start(geometry, &walk, gfn);
    while (outcome == WALK_NEXT) {
        uint64_t index = level_index(geometry, walk.level, gfn);
        const uint8_t *table = table_at(image, &pa, &index);

        if (!table) {
            set_fault(result, walk.level, P2MFAST_FAULT_EXTERNAL);
            return;
        }
        outcome = walk_step(geometry, WALK_MMU, &walk, word_at(table, index));
        pa = walk.table_mfn << PAGE_SHIFT;
    }
    if (outcome == WALK_LEAF)
        set_translation(geometry, &walk, ipa, access, result);
    else
        set_fault(result, walk.level, walk.fault);
}
