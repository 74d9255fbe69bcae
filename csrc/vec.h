/*
 * Loops over many descriptors: one body (vec_loops.h), compiled for each instruction set that pays,
 * reached through a const table that the platform chooses when a P2M is created.
 *
 * Over live tables they work in aligned 8-byte lanes, each written at once; never as a memset.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_VEC_H
#define P2MFAST_VEC_H

#include <stddef.h>
#include <stdint.h>

/* Words that one mask speaks of. */
#define MASK_WORDS 64

struct vec {
    const char *name;
    /* words[i] = first + i * step */
    void (*fill)(uint64_t *words, size_t n, uint64_t first, uint64_t step);
    /* words[i] &= keep */
    void (*keep)(uint64_t *words, size_t n, uint64_t keep);
    /* How many words have a bit of `mask`; *any gets the or of all words. */
    size_t (*count)(const uint64_t *words, size_t n, uint64_t mask, uint64_t *any);
    /* Is every words[i] == first + i * step? */
    int (*follows)(const uint64_t *words, size_t n, uint64_t first, uint64_t step);
    /* Of MASK_WORDS words, a bit each: is its p2m type in `types` (a bit each), and its bit 0 set
     * unless `also` is 1? */
    uint64_t (*of_types)(const uint64_t *words, uint64_t types, uint64_t also);
    /* Of MASK_WORDS words, a bit each: is its frame the one behind that of the word before it?
     * Bit 0 says nothing. */
    uint64_t (*goes_on)(const uint64_t *words, uint64_t address_mask);
};

/* In plain C, with what every machine has. */
extern const struct vec vec_portable;
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
#define VEC_X86 1
extern const struct vec vec_avx2;
extern const struct vec vec_v4; /* AVX-512 as x86-64-v4 has it */
#endif

#endif
