/*
 * Loops over many descriptors. Those over live tables work in aligned 8-byte lanes that are each
 * written at once; those over tables that nobody sees yet are plain.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_VEC_H
#define P2MFAST_VEC_H

#include <stddef.h>
#include <stdint.h>

/* A table not yet linked: first, first + step, ... */
void vec_fill_unlinked(uint64_t *words, size_t n, uint64_t first, uint64_t step);
/* A live table: the same, lane by lane. */
void vec_fill_live(uint64_t *words, size_t n, uint64_t first, uint64_t step);
/* A live table: words[i] &= keep. */
void vec_keep_live(uint64_t *words, size_t n, uint64_t keep);
/* How many words have a bit of `mask`; `any` gets the or of all words. */
size_t vec_count(const uint64_t *words, size_t n, uint64_t mask, uint64_t *any);

#endif
