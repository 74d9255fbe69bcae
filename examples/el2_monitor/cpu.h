/*
 * The core's own instructions: system registers, barriers, counters, caches.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EL2_MONITOR_CPU_H
#define EL2_MONITOR_CPU_H

#include <stdint.h>

#define READ_REGISTER(name)                                                                        \
    ({                                                                                             \
        uint64_t value_;                                                                           \
        __asm__ volatile("mrs %0, " #name : "=r"(value_)::"memory");                               \
        value_;                                                                                    \
    })
#define WRITE_REGISTER(name, value)                                                                \
    __asm__ volatile("msr " #name ", %0" ::"r"((uint64_t)(value)) : "memory")

/* For the oracle beside QEMU (interface.h); a NOP for everybody else. */
#define MARK(number) __asm__ volatile("hint %0" ::"i"(number) : "memory")

static inline void isb(void)
{
    __asm__ volatile("isb" ::: "memory");
}

/* Stores to descriptors are seen by the table walkers of all cores behind this. */
static inline void publish(void)
{
    __asm__ volatile("dsb ishst" ::: "memory");
}

static inline void wait_for_maintenance(void)
{
    __asm__ volatile("dsb ish" ::: "memory");
}

#define CTR_DMINLINE_SHIFT 16
#define CTR_DMINLINE_MASK 0xf

/* Of the smallest line of all data caches. */
static inline uint64_t line_bytes(void)
{
    return 4 << (READ_REGISTER(ctr_el0) >> CTR_DMINLINE_SHIFT & CTR_DMINLINE_MASK);
}

/* To the point of coherency, and invalidated; behind wait_for_maintenance() it is done. */
static inline void clean_lines(uint64_t address, uint64_t end, uint64_t line)
{
    for (address &= ~(line - 1); address < end; address += line)
        __asm__ volatile("dc civac, %0" ::"r"(address) : "memory");
}

/* For the guest: its interrupts are not taken at EL2, and end this all the same. */
static inline void wait_for_interrupt(void)
{
    __asm__ volatile("dsb sy; wfi" ::: "memory");
}

static inline uint64_t ticks(void)
{
    isb(); /* else the counter may be read early */
    return READ_REGISTER(cntpct_el0);
}

/* Instructions, where QEMU counts them (-icount shift=0) and the counter is on; else 0. */
static inline uint64_t cycles(void)
{
    return READ_REGISTER(pmccntr_el0);
}

#endif
