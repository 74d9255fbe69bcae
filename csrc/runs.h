/*
 * Runs: pages whose GFN and MFN go on together, as flushes and harvests return them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_RUNS_H
#define P2MFAST_RUNS_H

#include "p2m.h"

struct runs {
    p2mfast_run_t *runs;
    size_t capacity;
    size_t n;
};

/* Append nr pages; false: no room, and nothing was appended. */
static inline bool runs_append(struct runs *runs, uint64_t gfn, uint64_t mfn, uint64_t nr)
{
    if (runs->n) {
        p2mfast_run_t *last = &runs->runs[runs->n - 1];

        if (last->gfn + last->nr == gfn && last->mfn + last->nr == mfn) {
            last->nr += nr;
            return true;
        }
    }
    if (runs->n == runs->capacity)
        return false;
    runs->runs[runs->n++] = (p2mfast_run_t){gfn, mfn, nr};
    return true;
}

/* Is there room for a whole last table, whatever it is like? */
static inline bool runs_fit_table(const struct runs *runs)
{
    return runs->capacity - runs->n >= TABLE_WORDS;
}

/* Would it be, with all the room that this call was given? Then it is better to come back. */
static inline bool runs_could_fit_table(const struct runs *runs)
{
    return runs->capacity >= TABLE_WORDS && runs->n;
}

/* Append the RAM among words [from, to) of a last table whose first page is gfn; leaves whose bit 0
 * is clear as well if `armed_too`. There must be room for to - from runs. Returns the pages. */
uint64_t runs_append_table(struct runs *runs, const struct p2mfast *p2m, const uint64_t *table,
                           unsigned from, unsigned to, uint64_t gfn, bool armed_too);

#endif
