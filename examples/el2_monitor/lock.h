/*
 * A ticket lock: vCPUs get it in the order in which they asked.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EL2_MONITOR_LOCK_H
#define EL2_MONITOR_LOCK_H

#include <stdint.h>

struct lock {
    uint32_t next;
    uint32_t served;
};

static inline void lock_take(struct lock *lock)
{
    uint32_t ticket = __atomic_fetch_add(&lock->next, 1, __ATOMIC_RELAXED);

    /* YIELD lets a simulator that runs one core at a time go on with the one that has the lock. */
    while (__atomic_load_n(&lock->served, __ATOMIC_ACQUIRE) != ticket)
        __asm__ volatile("yield");
}

static inline void lock_give(struct lock *lock)
{
    __atomic_store_n(&lock->served, lock->served + 1, __ATOMIC_RELEASE);
}

#endif
