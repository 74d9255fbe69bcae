/*
 * A judge of the monitor at EL2 (examples/el2_monitor): whether each of its flushes cleans what the
 * guest has written since the last one. QEMU has no caches, so that a page which is forgotten
 * corrupts nothing; here it is found, from the guest's own accesses and the monitor's logs in RAM.
 *
 * What a flush has to clean is told by three moments of it:
 *
 * begin: MARK_FLUSH_BEGINS. What was written before has to be among its pages.
 *
 * invalidate: the TLB invalidation behind the arming has reached all cores. What is written from
 * here on has to be among the next flush's pages.
 *
 * collected: MARK_COLLECTED. Its pages are in the log, and judged.
 *
 * What is written between the first two is among its pages or else among the next one's. A monitor
 * that cleans before it arms may have cleaned the page already: then it has to be the next one's. A
 * store is done between its block's start and its callback; where the page is cleaned between these
 * two, nobody tells, and it is counted as ambiguous.
 *
 * QEMU lets all vCPUs leave their translation blocks for a broadcast invalidation. A store and its
 * callback are in one block, so that a store that is seen afterwards was done afterwards.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RECORDER_ORACLE_H
#define RECORDER_ORACLE_H

#include <stdbool.h>
#include <stdint.h>

/* What of the monitor's instructions matters. */
enum monitor_instruction {
    MONITOR_OTHER,
    MONITOR_STARTS, /* the marks */
    MONITOR_BEGINS,
    MONITOR_COLLECTED,
    MONITOR_CLEANED,
    MONITOR_CLEAN,      /* DC CIVAC */
    MONITOR_INVALIDATE, /* a TLBI */
};

enum monitor_instruction oracle_decode(uint32_t word);

struct oracle_counts {
    uint64_t guest, monitor; /* instructions */
    uint64_t zeroings;       /* DC ZVA of the guest, whose stores were not seen */
    uint64_t unresolved;     /* accesses that QEMU told no address of */
};

struct oracle_pages {
    uint8_t *flags;        /* a byte for each page of the guest, */
    uint8_t read, written; /* and what an access sets in it by now */
    bool flushing;         /* from a flush's begin to its invalidation */
    uint64_t lines;        /* cleaned by all flushes so far: it never falls */
};
extern struct oracle_pages oracle_pages;

static inline uint64_t oracle_lines(void)
{
    return __atomic_load_n(&oracle_pages.lines, __ATOMIC_SEQ_CST);
}

/* A page is written while a flush goes on, by a block that began when so many lines were clean. */
void oracle_written_in_flush(uint64_t page, uint64_t lines);

/* The guest reads, fetches or writes this page, counted from the start of RAM; the block that does
 * so began when so many lines were clean. */
static inline void oracle_touch(uint64_t page, bool write, uint64_t lines)
{
    uint8_t flag =
        __atomic_load_n(write ? &oracle_pages.written : &oracle_pages.read, __ATOMIC_RELAXED);

    if (flag & ~__atomic_load_n(&oracle_pages.flags[page], __ATOMIC_RELAXED))
        __atomic_fetch_or(&oracle_pages.flags[page], flag, __ATOMIC_RELAXED);
    if (write && __atomic_load_n(&oracle_pages.flushing, __ATOMIC_RELAXED))
        oracle_written_in_flush(page, lines);
}

/* For so many pages from this frame on. */
void oracle_init(uint64_t base_gfn, uint64_t pages);
/* Where the monitor's memory is found. */
void oracle_see(const uint8_t *monitor);

/* A vCPU is about to execute a mark. */
void oracle_mark(unsigned vcpu, enum monitor_instruction mark, struct oracle_counts counts);
/* It cleans a line. */
void oracle_clean(unsigned vcpu);
/* Its TLB invalidation is done everywhere. */
void oracle_invalidated(unsigned vcpu);

/* Write the judgements, as JSON. */
void oracle_write(const char *path, struct oracle_counts counts);

#endif
