/* SPDX-License-Identifier: Apache-2.0 */
#include "vec.h"
#include "approach.h"

/* The results of look-ups as words: vectors have no bytes here and there. What the bytes behind
 * the first words are is theirs, at the place that the machine's byte order gives them. */
struct entry_words {
    uint64_t mfn;
    uint64_t facts;
} __attribute__((may_alias));

struct translation_words {
    uint64_t pa;
    uint64_t attrs;
    uint64_t facts;
} __attribute__((may_alias));

_Static_assert(sizeof(struct entry_words) == sizeof(p2mfast_entry_t), "words of an entry");
_Static_assert(sizeof(struct translation_words) == sizeof(p2mfast_translation_t),
               "words of a translation");

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define BYTE_OF_WORD(offset) (8 * ((offset) % 8))
#else
#define BYTE_OF_WORD(offset) (56 - 8 * ((offset) % 8))
#endif
#define ENTRY_FACT(member, value)                                                                  \
    ((uint64_t)(value) << BYTE_OF_WORD(offsetof(p2mfast_entry_t, member)))
#define TRANSLATION_FACT(member, value)                                                            \
    ((uint64_t)(value) << BYTE_OF_WORD(offsetof(p2mfast_translation_t, member)))

#ifdef __SANITIZE_THREAD__
/* What a race detector accepts: readers look at these words while they are written. */
#define READ_LANE(word) __atomic_load_n(word, __ATOMIC_RELAXED)
#define WRITE_LANE(word, value) __atomic_store_n(word, value, __ATOMIC_RELAXED)
#else
#define READ_LANE(word) (*(word))
#define WRITE_LANE(word, value) (*(word) = (value))
#endif

/* ---- Portable ---- */

#define VEC(name) name##_portable
#define VEC_TARGET
#include "vec_loops.h"
#undef VEC
#undef VEC_TARGET

static uint64_t of_types_portable(const uint64_t *words, uint64_t types, uint64_t also)
{
    uint64_t mask = 0;

    for (unsigned i = 0; i < MASK_WORDS; i++) {
        uint64_t word = READ_LANE(&words[i]);

        mask |= (types >> pte_type(word) & (word | also) & 1) << i;
    }
    return mask;
}

static uint64_t goes_on_portable(const uint64_t *words, uint64_t address_mask)
{
    uint64_t before = READ_LANE(&words[0]) & address_mask;
    uint64_t mask = 0;

    for (unsigned i = 1; i < MASK_WORDS; i++) {
        uint64_t address = READ_LANE(&words[i]) & address_mask;

        mask |= (uint64_t)(address - before == TABLE_BYTES) << i;
        before = address;
    }
    return mask;
}

const struct vec vec_portable = {
    "portable",        fill_portable,    keep_portable,    count_portable,        follows_portable,
    of_types_portable, goes_on_portable, entries_portable, translations_portable,
};

#ifdef VEC_X86
#include <immintrin.h>

/* ---- AVX2 ---- */

#define VEC(name) name##_avx2
#define VEC_TARGET __attribute__((target("avx2,bmi,bmi2,popcnt")))
#include "vec_loops.h"

VEC_TARGET static uint64_t of_types_avx2(const uint64_t *words, uint64_t types, uint64_t also)
{
    const __m256i set = _mm256_set1_epi64x((long long)types);
    const __m256i valid = _mm256_set1_epi64x((long long)also);
    const __m256i low = _mm256_set1_epi64x((long long)(PTE_TYPE >> PTE_TYPE_SHIFT));
    uint64_t mask = 0;

    for (unsigned i = 0; i < MASK_WORDS; i += 4) {
        __m256i word = _mm256_load_si256((const __m256i *)(words + i));
        __m256i type = _mm256_and_si256(_mm256_srli_epi64(word, PTE_TYPE_SHIFT), low);
        __m256i in = _mm256_and_si256(_mm256_srlv_epi64(set, type), _mm256_or_si256(word, valid));
        __m256d sign = _mm256_castsi256_pd(_mm256_slli_epi64(in, 63));

        mask |= (uint64_t)(unsigned)_mm256_movemask_pd(sign) << i;
    }
    return mask;
}

VEC_TARGET static uint64_t four_go_on(const uint64_t *words, uint64_t address_mask)
{
    const __m256i address = _mm256_set1_epi64x((long long)address_mask);
    const __m256i page = _mm256_set1_epi64x(TABLE_BYTES);
    __m256i here = _mm256_and_si256(_mm256_loadu_si256((const __m256i *)words), address);
    __m256i before = _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(words - 1)), address);
    __m256i same = _mm256_cmpeq_epi64(_mm256_sub_epi64(here, before), page);

    return (unsigned)_mm256_movemask_pd(_mm256_castsi256_pd(same));
}

/* From word 1 on, so that nothing before the table is read; the last four overlap. */
VEC_TARGET static uint64_t goes_on_avx2(const uint64_t *words, uint64_t address_mask)
{
    uint64_t mask = four_go_on(words + MASK_WORDS - 4, address_mask) << (MASK_WORDS - 4);

    for (unsigned i = 1; i < MASK_WORDS - 4; i += 4)
        mask |= four_go_on(words + i, address_mask) << i;
    return mask;
}

#undef VEC
#undef VEC_TARGET

const struct vec vec_avx2 = {
    "avx2",        fill_avx2,    keep_avx2,    count_avx2,        follows_avx2,
    of_types_avx2, goes_on_avx2, entries_avx2, translations_avx2,
};

/* ---- x86-64-v4 ---- */

/* gcc would vectorise with 256 bits by itself; clang takes 512, and refuses the whole attribute for
 * a word of it that it does not know. */
#ifdef __clang__
#define WIDE ""
#else
#define WIDE ",prefer-vector-width=512"
#endif
#define VEC(name) name##_v4
#define VEC_TARGET                                                                                 \
    __attribute__((target("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,bmi,bmi2,popcnt" WIDE)))
#include "vec_loops.h"

VEC_TARGET static uint64_t of_types_v4(const uint64_t *words, uint64_t types, uint64_t also)
{
    const __m512i set = _mm512_set1_epi64((long long)types);
    const __m512i valid = _mm512_set1_epi64((long long)also);
    const __m512i low = _mm512_set1_epi64((long long)(PTE_TYPE >> PTE_TYPE_SHIFT));
    const __m512i one = _mm512_set1_epi64(1);
    uint64_t mask = 0;

    for (unsigned i = 0; i < MASK_WORDS; i += 8) {
        __m512i word = _mm512_load_si512(words + i);
        __m512i type = _mm512_and_si512(_mm512_srli_epi64(word, PTE_TYPE_SHIFT), low);
        __m512i in = _mm512_and_si512(_mm512_srlv_epi64(set, type), _mm512_or_si512(word, valid));

        mask |= (uint64_t)_mm512_test_epi64_mask(in, one) << i;
    }
    return mask;
}

VEC_TARGET static uint64_t goes_on_v4(const uint64_t *words, uint64_t address_mask)
{
    const __m512i address = _mm512_set1_epi64((long long)address_mask);
    const __m512i page = _mm512_set1_epi64(TABLE_BYTES);
    __m512i before = _mm512_setzero_si512();
    uint64_t mask = 0;

    for (unsigned i = 0; i < MASK_WORDS; i += 8) {
        __m512i here = _mm512_and_si512(_mm512_load_si512(words + i), address);
        __m512i shifted = _mm512_alignr_epi64(here, before, 7);

        mask |= (uint64_t)_mm512_cmpeq_epi64_mask(_mm512_sub_epi64(here, shifted), page) << i;
        before = here;
    }
    return mask;
}

#undef VEC
#undef VEC_TARGET

const struct vec vec_v4 = {
    "x86-64-v4", fill_v4,    keep_v4,    count_v4,        follows_v4,
    of_types_v4, goes_on_v4, entries_v4, translations_v4,
};
#endif
