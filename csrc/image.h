/*
 * Tables in an image of memory: a file that some hypervisor's machine was dumped to. Nothing in it
 * is to be trusted: every address is looked for among the image's segments before it is followed,
 * and no table is entered twice, so that a scan ends after at most the image's own size of work.
 *
 * A descriptor is "present" if its bit 0 is set or its p2m type is not 0 (armed entries of Xen's);
 * what is neither, an MMU and Xen both ignore.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_IMAGE_H
#define P2MFAST_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include "geometry.h"
#include "p2mfast/p2mfast.h"

/* Bytes of physical memory. */
struct image_segment {
    uint64_t pa;
    uint64_t bytes;
    const uint8_t *data;
    uint64_t first_mark; /* image_init numbers the pages of all segments */
};

struct image {
    struct geometry geometry;
    uint64_t root; /* physical address of the (first) root table */
    const struct image_segment *segments;
    size_t n;
    uint64_t pages; /* of all segments: marks that a scan needs */
};

/* Segments ascend and do not overlap; they stay where they are while the image is in use. What they
 * hold may change (a file that a running machine has as its memory): each descriptor is read once.
 * Errors: of geometry_from_vtcr; P2MFAST_ERROR_TABLE_BASE: VTTBR's address is not aligned to the
 * root tables; P2MFAST_ERROR_ARGUMENT: the segments do not ascend. */
int image_init(struct image *image, uint64_t vtcr, uint64_t vttbr, unsigned pa_bits,
               struct image_segment *segments, size_t n);

/* ---- Everything that is there ---- */

/* Pages that are mapped alike, as far as GFN and MFN go on together. */
struct image_extent {
    uint64_t gfn;
    uint64_t mfn;
    uint64_t nr;
    uint64_t attrs; /* the leaves' descriptors without address and bits 1:0 */
    int8_t level;
    uint8_t valid;     /* bit 0 of the leaves */
    uint8_t reachable; /* bit 0 of every descriptor on the way as well */
    uint8_t reserved[5];
};

/* A table that was entered. */
struct image_table {
    uint64_t pa;
    uint64_t gfn; /* first page that it speaks of */
    int8_t level;
    uint8_t valid; /* bit 0 of the pointer to it; 1 for root tables */
    uint8_t reachable;
    uint8_t reserved[5];
};

enum image_finding_kind {
    IMAGE_OUTSIDE = 1,    /* value points to a table that is not in the image (all 4 KiB of it) */
    IMAGE_TWICE = 2,      /* value points to a table that was entered before: not entered again */
    IMAGE_LOOP = 3,       /* value points to a table that leads to it */
    IMAGE_MISALIGNED = 4, /* a block whose address has bits below its size: they are left out */
    IMAGE_RESERVED = 5,   /* bits that the architecture reserves */
    IMAGE_ENCODING = 6,   /* bit 1 clear where there are no blocks: maps nothing */
    IMAGE_FINDING_KINDS
};

struct image_finding {
    uint64_t gfn;   /* first page that the descriptor speaks of */
    uint64_t value; /* the descriptor; the address of a root table that is OUTSIDE */
    uint64_t table; /* physical address of the table that holds it; of a root table: itself */
    uint16_t index; /* in that table */
    uint8_t kind;
    int8_t level;
    uint8_t reserved[4];
};

/* Of each kind so many findings are listed; all are counted. */
#define IMAGE_FINDINGS_LISTED 1000u

struct image_list {
    void *items;
    size_t n;
    size_t capacity;
};

struct image_scan {
    struct image_list extents;  /* of struct image_extent, ascending */
    uint64_t most_extents;      /* to be listed; all are counted */
    struct image_list tables;   /* of struct image_table, in the order they were entered */
    struct image_list findings; /* of struct image_finding */
    uint64_t found[IMAGE_FINDING_KINDS];
    uint64_t ignored; /* words that are not 0 and not present */
    uint64_t beyond;  /* pages mapped to addresses of more than the geometry's pa_bits */
    uint64_t extents_found;
    uint64_t ranges_found; /* extents whose attributes go on taken as one */
    uint64_t runs_found;   /* those whose p2m type goes on */
    /* Pages by p2m type, level, valid and reachable. */
    uint64_t pages[16][LEAF_LEVEL + 1][2][2];
    /* Makes room for more items of `bytes` each; false: there is no memory. */
    bool (*grow)(struct image_list *list, size_t bytes);
    uint8_t *marks; /* image->pages bytes, zeroed */
};

/* 0, or P2MFAST_ERROR_MEMORY. */
int image_scan(const struct image *image, struct image_scan *scan);

/* ---- One address ---- */

/* A descriptor on the way to an address. */
struct image_step {
    uint64_t table; /* physical address of the table */
    uint64_t descriptor;
    uint16_t index;
    int8_t level;
    uint8_t inside; /* 0: the table is not in the image, and there is no descriptor */
    uint8_t reserved[4];
};

/* Follow what is present, valid or not, to gfn, which is inside the space. How many steps. */
size_t image_walk(const struct image *image, uint64_t gfn, struct image_step steps[LEVELS]);

/* The MMU's view, as p2mfast_translate; a table that is not in the image is an external abort. */
void image_translate(const struct image *image, uint64_t ipa, unsigned access,
                     p2mfast_translation_t *result);

#endif
