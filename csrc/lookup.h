/*
 * Single look-ups, as batches fall back on them. The caller has checked the arguments.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_LOOKUP_H
#define P2MFAST_LOOKUP_H

#include "p2m.h"

/* With the sequence counter looked after. */
void lookup_entry(const struct p2mfast *p2m, uint64_t gfn, p2mfast_entry_t *entry);
void lookup_translation(const struct p2mfast *p2m, uint64_t ipa, unsigned access,
                        p2mfast_translation_t *result);

/* The caller looks after it. */
void lookup_read_entry(const struct p2mfast *p2m, uint64_t gfn, p2mfast_entry_t *entry);
void lookup_read_translation(const struct p2mfast *p2m, uint64_t ipa, unsigned access,
                             p2mfast_translation_t *result);

#endif
