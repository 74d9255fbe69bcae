/*
 * The loops of vec.h, compiled once for each instruction set: vec.c includes this file with
 * VEC(name) naming the functions and VEC_TARGET their attribute. No include guard: on purpose.
 * Loop variables are local, so that the compiler's vectoriser sees no aliasing.
 *
 * SPDX-License-Identifier: Apache-2.0
 */

VEC_TARGET static void VEC(fill)(uint64_t *words, size_t n, uint64_t first, uint64_t step)
{
    uint64_t word = first;

    for (size_t i = 0; i < n; i++, word += step)
        WRITE_LANE(&words[i], word);
}

VEC_TARGET static void VEC(keep)(uint64_t *words, size_t n, uint64_t keep)
{
    for (size_t i = 0; i < n; i++)
        WRITE_LANE(&words[i], READ_LANE(&words[i]) & keep);
}

VEC_TARGET static size_t VEC(count)(const uint64_t *words, size_t n, uint64_t mask, uint64_t *any)
{
    uint64_t count = 0;
    uint64_t all = 0;

    for (size_t i = 0; i < n; i++) {
        uint64_t word = READ_LANE(&words[i]);

        all |= word;
        count += (word & mask) != 0;
    }
    *any = all;
    return count;
}

VEC_TARGET static int VEC(follows)(const uint64_t *words, size_t n, uint64_t first, uint64_t step)
{
    uint64_t differs = 0;
    uint64_t word = first;

    for (size_t i = 0; i < n; i++, word += step)
        differs |= READ_LANE(&words[i]) ^ word;
    return !differs;
}
