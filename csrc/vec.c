/* SPDX-License-Identifier: Apache-2.0 */
#include "vec.h"

void vec_fill_unlinked(uint64_t *words, size_t n, uint64_t first, uint64_t step)
{
    for (size_t i = 0; i < n; i++)
        words[i] = first + i * step;
}

void vec_fill_live(uint64_t *words, size_t n, uint64_t first, uint64_t step)
{
    for (size_t i = 0; i < n; i++)
        __atomic_store_n(&words[i], first + i * step, __ATOMIC_RELAXED);
}

void vec_keep_live(uint64_t *words, size_t n, uint64_t keep)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t word = __atomic_load_n(&words[i], __ATOMIC_RELAXED);

        /* Untouched words stay clean in the cache. */
        if (word & ~keep)
            __atomic_store_n(&words[i], word & keep, __ATOMIC_RELAXED);
    }
}

size_t vec_count(const uint64_t *words, size_t n, uint64_t mask, uint64_t *any)
{
    size_t count = 0;
    uint64_t all = 0;

    for (size_t i = 0; i < n; i++) {
        uint64_t word = __atomic_load_n(&words[i], __ATOMIC_RELAXED);

        all |= word;
        count += (word & mask) != 0;
    }
    *any = all;
    return count;
}
