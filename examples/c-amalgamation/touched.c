/*
 * Which pages did the guest touch? Arm everything, let it run, harvest. The engine is compiled
 * into the program from one file, p2mfast.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <p2mfast/p2mfast.h>

#include <inttypes.h>
#include <stdio.h>

#define RAM_GFN 0x40000
#define RAM_PAGES (256 * 1024) /* 1 GiB */

/* An access of the guest: what is armed faults once, and is made reachable. */
static int touch(p2mfast_t *p2m, uint64_t ipa)
{
    p2mfast_translation_t t;
    int error = p2mfast_translate(p2m, ipa, P2MFAST_WRITE, &t);

    if (!error && t.fault == P2MFAST_FAULT_TRANSLATION)
        return p2mfast_resolve_translation_fault(p2m, ipa >> 12, P2MFAST_DEPTH_PATH, 0) == 1
                   ? 0
                   : P2MFAST_ERROR_RANGE;
    return error;
}

/* Collect what is reachable and arm it again, in one step. Returns the number of pages, or a
 * negative error. */
static int64_t harvest(p2mfast_t *p2m)
{
    p2mfast_run_t runs[64];
    uint64_t cursor = 0;
    int64_t pages = 0;
    int more;

    do {
        size_t n = 0;

        more = p2mfast_harvest(p2m, &cursor, runs, 64, &n);
        for (size_t i = 0; i < n; i++) { /* a hypervisor would clean these from its caches */
            printf("  GFN 0x%" PRIx64 ", %" PRIu64 " pages\n", runs[i].gfn, runs[i].nr);
            pages += (int64_t)runs[i].nr;
        }
    } while (more > 0);
    return more < 0 ? more : pages;
}

int main(void)
{
    p2mfast_t *p2m = p2mfast_create(NULL);
    int64_t first;
    int64_t second;
    int error;

    if (!p2m)
        return 1;
    /* In pages: what is tracked is what one descriptor maps. */
    error = p2mfast_set_entry(p2m, RAM_GFN, RAM_PAGES, 0x80000, P2MFAST_RAM_RW, P2MFAST_ACCESS_RWX,
                              P2MFAST_ARMED | P2MFAST_MAX_ORDER_0);
    if (!error)
        error = p2mfast_invalidate_root(p2m);
    for (uint64_t page = 0; page < 100 && !error; page++)
        error = touch(p2m, (RAM_GFN + 1000 + page) << 12);
    if (!error)
        error = touch(p2m, (RAM_GFN + 200000) << 12);
    if (error) {
        fprintf(stderr, "%s\n", p2mfast_error_words(error));
        p2mfast_destroy(p2m);
        return 1;
    }
    puts("touched:");
    first = harvest(p2m);
    puts("touched since then:");
    second = harvest(p2m);
    p2mfast_destroy(p2m);
    return first != 101 || second != 0;
}
