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

VEC_TARGET static bool VEC(entries)(const uint64_t *ptes, const uint64_t *approaches, size_t n,
                                    p2mfast_entry_t *entries)
{
    struct entry_words *words = (struct entry_words *)entries;
    uint64_t others = 0;

    for (size_t i = 0; i < n; i++) {
        uint64_t pte = ptes[i];
        uint64_t type = approaches[i] & APPROACH_LEVEL ? 0 : pte & PTE_TYPE;
        uint64_t reachable = pte & approaches[i] & APPROACH_VALID;

        others |= !type;
        words[i].mfn = (pte & PTE_ADDRESS) >> PAGE_SHIFT;
        words[i].facts = ENTRY_FACT(type, type >> PTE_TYPE_SHIFT) |
                         ENTRY_FACT(valid, pte & PTE_VALID) | ENTRY_FACT(reachable, reachable) |
                         ENTRY_FACT(access, P2MFAST_ACCESS_RWX);
    }
    return !others;
}

VEC_TARGET static bool VEC(translations)(const uint64_t *ptes, const uint64_t *approaches,
                                         const uint64_t *ipas, size_t n,
                                         const struct vec_rights *rights,
                                         p2mfast_translation_t *results)
{
    struct translation_words *words = (struct translation_words *)results;
    const struct vec_rights local = *rights;
    uint64_t others = 0;

    for (size_t i = 0; i < n; i++) {
        uint64_t pte = ptes[i];
        uint64_t other = ((pte & local.mask) ^ local.expect) | (approaches[i] & APPROACH_LEVEL) |
                         ipas[i] >> local.ipa_bits;

        others |= other;
        words[i].pa = (pte & PTE_ADDRESS) | (ipas[i] & (TABLE_BYTES - 1));
        words[i].attrs = pte & ~PTE_ADDRESS;
        words[i].facts = TRANSLATION_FACT(level, LEAF_LEVEL) | TRANSLATION_FACT(fault, other != 0);
    }
    return !others;
}
