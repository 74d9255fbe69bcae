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

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "p2mfast/p2mfast.h"

/* Words that one mask speaks of. */
#define MASK_WORDS 64

/* What a page's descriptor must be for an access to pass, and the address size. */
struct vec_rights {
    uint64_t expect;
    uint64_t mask;
    unsigned ipa_bits;
};

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
    /* What look-ups give for n descriptors, ptes[i] read at the end of approaches[i] (approach.h).
     * Only for pages: other results have type INVALID. Are all of them pages? */
    bool (*entries)(const uint64_t *ptes, const uint64_t *approaches, size_t n,
                    p2mfast_entry_t *entries);
    /* The same for accesses: what is not a page that permits them has a fault. */
    bool (*translations)(const uint64_t *ptes, const uint64_t *approaches, const uint64_t *ipas,
                         size_t n, const struct vec_rights *rights, p2mfast_translation_t *results);
};

/* In plain C, with what every machine has. */
extern const struct vec vec_portable;
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
#define VEC_X86 1
extern const struct vec vec_avx2;
extern const struct vec vec_v4; /* AVX-512 as x86-64-v4 has it */
#endif

#endif
