/*
 * mem_access: what each GFN may be used for, kept beside the tables (Xen's
 * p2m->mem_access_settings).
 *
 * Three levels of pages of pointers over pages of a byte a GFN. A byte is the access xor RWX, so
 * that a fresh page says RWX. Pages are linked empty before the first store of an update, and stay
 * until the P2M goes: readers take no lock here either.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_ACCESS_H
#define P2MFAST_ACCESS_H

#include "p2m.h"

/* The access of a mapped GFN: RWX while mem_access is off. */
uint8_t access_get(const struct p2mfast *p2m, uint64_t gfn);

/* Link the pages that setting `access` on [gfn, gfn + nr) needs. 0, or P2MFAST_ERROR_MEMORY: then
 * some may be linked, but none says anything new. Nothing to do while mem_access is off. */
int access_reserve(struct p2mfast *p2m, uint64_t gfn, uint64_t nr, unsigned access);

/* GFNs that a page of the store speaks of, a byte each. */
#define ACCESS_PAGE_ORDER 12

/* The first page of the store at or behind *gfn, which becomes the first GFN that it speaks of;
 * whether mem_access is on or not. NULL: there are no more. */
const uint8_t *access_next_page(const struct p2mfast *p2m, uint64_t *gfn);
/* Keep this page for [gfn, ...), aligned. 0, P2MFAST_ERROR_MEMORY, or P2MFAST_ERROR_ARGUMENT: a
 * byte that is no access. */
int access_put_page(struct p2mfast *p2m, uint64_t gfn, const uint8_t *bytes);

/* After that, it succeeds. */
void access_set(struct p2mfast *p2m, uint64_t gfn, uint64_t nr, unsigned access);

#endif
