/*
 * EL2's own translation: everything at its own address, RAM as Normal memory with caches, the rest
 * as Device memory. Without it, EL2's accesses would go past the caches that the guest's go
 * through, and the locks' exclusive accesses would have no meaning the architecture promises.
 *
 * Sources: Arm ARM DDI 0487, D8.3 (VMSAv8-64 block descriptors), D19.2 (TCR_EL2, MAIR_EL2).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "monitor.h"

#define ENTRIES 512
#define BLOCK_SHIFT 30 /* 1 GiB, at level 1 */

#define BLOCK_VALID 1
#define BLOCK_NORMAL (0 << 2) /* MAIR_EL2's attribute 0 */
#define BLOCK_DEVICE (1 << 2)
#define BLOCK_INNER_SHAREABLE (3 << 8)
#define BLOCK_ACCESSED (1 << 10)
#define BLOCK_NEVER_EXECUTED ((uint64_t)1 << 54)

#define MAIR_NORMAL_WRITE_BACK 0xff
#define MAIR_DEVICE_NGNRE ((uint64_t)0x04 << 8)

#define TCR_T0SZ 25 /* 39 bits: one table, of level 1 */
#define TCR_WALKS_CACHED (1 << 8 | 1 << 10 | 3 << 12)
#define TCR_PS_40_BITS (2 << 16)
#define TCR_RES1 ((uint64_t)1 << 31 | (uint64_t)1 << 23)

#define SCTLR_M 1
#define SCTLR_C (1 << 2)
#define SCTLR_I (1 << 12)
#define SCTLR_RES1 0x30c50830

static _Alignas(4096) uint64_t table[ENTRIES];

/* boot.S reads them in this order. */
const uint64_t mmu_registers[] = {
    MAIR_NORMAL_WRITE_BACK | MAIR_DEVICE_NGNRE,              /* MAIR_EL2 */
    TCR_T0SZ | TCR_WALKS_CACHED | TCR_PS_40_BITS | TCR_RES1, /* TCR_EL2 */
    (uint64_t)table,                                         /* TTBR0_EL2 */
    SCTLR_RES1 | SCTLR_M | SCTLR_C | SCTLR_I,                /* SCTLR_EL2 */
};

void mmu_fill_table(void)
{
    uint64_t ram_end = RAM_BASE + parameters()->memory;

    for (uint64_t i = 0; i < ENTRIES; i++) {
        uint64_t address = i << BLOCK_SHIFT;
        bool ram = address >= RAM_BASE && address < ram_end;
        uint64_t kind =
            ram ? BLOCK_NORMAL | BLOCK_INNER_SHAREABLE : BLOCK_DEVICE | BLOCK_NEVER_EXECUTED;

        table[i] = address | kind | BLOCK_ACCESSED | BLOCK_VALID;
    }
}
