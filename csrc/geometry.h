/*
 * Where the levels lie: everything that depends on the IPA size and the granule, as data.
 * Only this file and geometry.c know the numbers; walks ask.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_GEOMETRY_H
#define P2MFAST_GEOMETRY_H

#include <stdint.h>

#define TABLE_BYTES 4096u
#define TABLE_WORDS 512u
#define PAGE_SHIFT 12

/* Levels are counted as Arm counts them: 3 is the leaf level, and LPA2 will start at -1. */
#define MIN_LEVEL (-1)
#define LEAF_LEVEL 3
#define LEVELS (LEAF_LEVEL - MIN_LEVEL + 1)

/* log2 of the pages that one entry maps, with the granule of 4 KiB: for loops that are compiled for
 * it. Others ask level_order(). */
#define GRANULE_ORDER(level) (9 * (LEAF_LEVEL - (level)))

struct geometry {
    uint8_t ipa_bits;
    uint8_t pa_bits;
    int8_t root_level;
    uint16_t root_pages;   /* concatenated root tables */
    uint8_t order[LEVELS]; /* log2 pages that one entry maps, by level - MIN_LEVEL */
    uint64_t gfn_limit;    /* first GFN beyond the IPA space */
    uint64_t mfn_limit;    /* first MFN that no descriptor can hold */
    uint64_t index_mask;   /* of a table below the root */
    uint64_t root_mask;    /* of the root tables, taken as one */
    uint64_t address_mask; /* descriptor bits that hold a frame */
    uint64_t type_mask;    /* descriptor bits that hold the p2m type */
    uint64_t vtcr;
};

/* 0, or a negative enum p2mfast_error that names the wrong argument. */
int geometry_init(struct geometry *geometry, unsigned ipa_bits, unsigned pa_bits, unsigned vmid);

/* What VTCR_EL2 says, whoever wrote it; AArch32's VTCR as well, whose fields agree where it has
 * them. pa_bits 0: by VTCR.PS. P2MFAST_ERROR_IPA_BITS: another granule than 4 KiB, an input size or
 * a start level that it does not have, or LPA2. P2MFAST_ERROR_PA_BITS: as geometry_init. */
int geometry_from_vtcr(struct geometry *geometry, uint64_t vtcr, unsigned pa_bits);

/* The (first) root table that VTTBR_EL2 leads to, VMID and CnP left out. P2MFAST_ERROR_TABLE_BASE:
 * not aligned to the root tables. */
int geometry_root(const struct geometry *geometry, uint64_t vttbr, uint64_t *root);

/* VTTBR_EL2 for root tables at this frame. */
uint64_t geometry_vttbr(uint64_t root_mfn, unsigned vmid);

/* Tables, without the roots, that mapping every page of the space takes. */
uint64_t geometry_all_tables(const struct geometry *geometry);

/* log2 of the pages that one entry of this level maps. */
static inline unsigned level_order(const struct geometry *geometry, int level)
{
    return geometry->order[level - MIN_LEVEL];
}

static inline uint64_t level_pages(const struct geometry *geometry, int level)
{
    return (uint64_t)1 << level_order(geometry, level);
}

/* Words of the table(s) at this level, the concatenated root tables taken as one. */
static inline uint64_t level_words(const struct geometry *geometry, int level)
{
    return (level == geometry->root_level ? geometry->root_mask : geometry->index_mask) + 1;
}

/* The masks keep an index inside its table whatever the GFN, so no caller can read beyond it. */
static inline uint64_t level_index(const struct geometry *geometry, int level, uint64_t gfn)
{
    uint64_t mask = level == geometry->root_level ? geometry->root_mask : geometry->index_mask;

    return (gfn >> level_order(geometry, level)) & mask;
}

/* First GFN behind the block of `order` that holds gfn. */
static inline uint64_t next_boundary(uint64_t gfn, unsigned order)
{
    return ((gfn >> order) + 1) << order;
}

static inline uint64_t align_down(uint64_t gfn, unsigned order)
{
    return (gfn >> order) << order;
}

#endif
