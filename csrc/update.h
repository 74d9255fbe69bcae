/*
 * What updates of ranges (update.c) and of scattered pages (scatter.c) share.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_UPDATE_H
#define P2MFAST_UPDATE_H

#include "p2m.h"

/* In place of a number of tables. */
#define CORRUPT_TREE UINT64_MAX

static inline bool removes(uint64_t mfn)
{
    return mfn == P2MFAST_INVALID_MFN;
}

/* 0, or the negative error of arguments that this P2M cannot take. */
int update_check_pages(const struct p2mfast *p2m, uint64_t gfn, uint64_t nr, uint64_t mfn);
int update_check_kind(unsigned type, unsigned access, unsigned flags, bool remove);

uint64_t update_attributes(unsigned type, unsigned access, unsigned flags);

/* Everything that could still fail; nothing is changed by it. removed: runs of counted mappings
 * that can go at the most. */
int update_reserve(struct p2mfast *p2m, uint64_t tables, uint64_t removed);

/* The word for gfn in its table of level `target`, which is installed or made by shattering where
 * it is missing. NULL: a removal met a hole, at *stop; or (stop is the root's level - 1) the
 * platform broke its promise of table frames. */
uint64_t *update_find_word(struct p2mfast *p2m, uint64_t gfn, int target, bool remove, int *stop);

/* Replace n words of one table, at most one of them a pointer to a table. mfn is for the first
 * word; P2MFAST_INVALID_MFN removes. */
void update_words(struct p2mfast *p2m, uint64_t *words, size_t n, int level, uint64_t gfn,
                  uint64_t mfn, uint64_t attributes);

/* [first, last] has been mapped. */
void update_extend_bounds(struct p2mfast *p2m, uint64_t first, uint64_t last);

#endif
