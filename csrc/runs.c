/* SPDX-License-Identifier: Apache-2.0 */
#include "runs.h"

static unsigned lowest_bit(uint64_t mask)
{
    return (unsigned)__builtin_ctzll(mask);
}

/* The bits of one mask, a run at a time. `breaks` has a bit where a run begins at the latest. */
static uint64_t append_mask(struct runs *runs, const struct p2mfast *p2m, const uint64_t *words,
                            uint64_t gfn, uint64_t mask, uint64_t breaks)
{
    uint64_t pages = 0;

    while (mask) {
        unsigned first = lowest_bit(mask);
        uint64_t ends = (~mask | breaks) >> first & ~(uint64_t)1;
        unsigned nr = ends ? lowest_bit(ends) : MASK_WORDS - first;

        runs_append(runs, gfn + first, pte_mfn(&p2m->geometry, pte_read(&words[first])), nr);
        pages += nr;
        if (first + nr == MASK_WORDS)
            break;
        mask &= ~(uint64_t)0 << (first + nr);
    }
    return pages;
}

uint64_t runs_append_table(struct runs *runs, const struct p2mfast *p2m, const uint64_t *table,
                           unsigned from, unsigned to, uint64_t gfn, bool armed_too)
{
    const struct vec *vec = p2m->vec;
    uint64_t first = pte_read(table);
    uint64_t pages = 0;

    /* A table that was mapped in one piece and touched whole is common, and one look. */
    if (from == 0 && to == TABLE_WORDS && pte_is_any_ram(first) &&
        (armed_too || pte_is_valid(first)) &&
        vec->follows(table, TABLE_WORDS, first, TABLE_BYTES)) {
        runs_append(runs, gfn, pte_mfn(&p2m->geometry, first), TABLE_WORDS);
        return TABLE_WORDS;
    }
    for (unsigned start = from - from % MASK_WORDS; start < to; start += MASK_WORDS) {
        uint64_t mask = vec->of_types(table + start, TYPES_RAM, armed_too);

        if (start < from)
            mask &= ~(uint64_t)0 << (from - start);
        if (start + MASK_WORDS > to)
            mask &= ~(uint64_t)0 >> (start + MASK_WORDS - to);
        if (mask)
            pages += append_mask(runs, p2m, table + start, gfn + start, mask,
                                 ~vec->goes_on(table + start, p2m->geometry.address_mask));
    }
    return pages;
}
