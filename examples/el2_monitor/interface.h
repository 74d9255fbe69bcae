/*
 * What the monitor and whoever starts it agree on: where its memory lies, what it is told, and what
 * it leaves there to be read while it runs and afterwards.
 *
 * Python reads this file (p2mfast/experiment/metal/interface.py), and the oracle beside QEMU
 * includes it. So it keeps to forms that both can read: numbers in #defines and enums, and structs
 * of uint64_t and arrays of it.
 *
 * The monitor owns MONITOR_BYTES (or more) at the top of RAM, which the guest is told nothing of:
 *
 *     + 0                    code, data, stacks (the ELF file, linked for this address)
 *     + PARAMETERS_OFFSET    struct parameters, written before it starts
 *     + REPORT_OFFSET        struct report
 *     + FLUSHES_OFFSET       struct flush_record, report.flushes of them
 *     + RUNS_OFFSET          struct run_record, report.runs of them
 *     + FAULTS_OFFSET        struct fault_record, report.faults of them
 *     + TABLES_OFFSET        stage-2 tables, to the end
 *
 * A log that is full takes no more; the report's count goes on, so that this can be seen.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EL2_MONITOR_INTERFACE_H
#define EL2_MONITOR_INTERFACE_H

#define INTERFACE_VERSION 1
#define PARAMETERS_MAGIC 0x31326c65736d6670 /* "pfmsel21" */

#define RAM_BASE 0x40000000 /* of QEMU's machine "virt" */
#define MONITOR_BYTES 0x1000000
#define PARAMETERS_OFFSET 0x100000
#define REPORT_OFFSET 0x101000
#define FLUSHES_OFFSET 0x110000
#define FLUSHES_MAX 4096
#define RUNS_OFFSET 0x200000
#define RUNS_MAX 174762 /* 4 MiB */
#define FAULTS_OFFSET 0x600000
#define FAULTS_MAX 65536
#define TABLES_OFFSET 0x700000

#define MAX_VCPUS 8

/* Policy (p2mfast/hypervisor/policy.py); arm=auto is decided by whoever fills in the parameters. */
enum arm_policy { ARM_NEVER, ARM_CREATION_FINISHED, ARM_MAP, ARM_FIRST_SET_WAY };
enum resolve_policy { RESOLVE_LEVEL, RESOLVE_PATH };
enum flush_policy { FLUSH_HARVEST, FLUSH_PATH, FLUSH_LEAF, FLUSH_ALL };

/* Options, or-ed. */
#define OPTION_TRAP_ZVA 1     /* DC ZVA is prohibited: guests clear memory by ordinary stores */
#define OPTION_NO_TLBI 2      /* leave out stage 2's TLB invalidations: what the stub shows */
#define OPTION_COUNT_CYCLES 4 /* PMCCNTR_EL0: instructions, under QEMU's -icount shift=0 */

struct parameters {
    uint64_t magic;
    uint64_t version;
    uint64_t memory; /* all of RAM, the monitor's included, in bytes */
    uint64_t vcpus;
    uint64_t guest_bits;
    uint64_t guest_bytes; /* RAM of the guest, from RAM_BASE on; a multiple of 2 MiB */
    uint64_t entry;
    uint64_t registers[4]; /* x0 to x3, or r0 to r3, at the entry */
    uint64_t page_order;   /* largest mapping of RAM: 0, 9 or 18 */
    uint64_t arm;          /* enum arm_policy */
    uint64_t resolve;      /* enum resolve_policy */
    uint64_t fault_around; /* order */
    uint64_t flush;        /* enum flush_policy */
    uint64_t budget;
    uint64_t iommu_shared;
    uint64_t options;
    uint64_t rom_base; /* flash that the guest executes from, or rom_bytes 0 */
    uint64_t rom_bytes;
    uint64_t copy_from; /* copied before the guest starts, or copy_bytes 0 */
    uint64_t copy_to;
    uint64_t copy_bytes;
};

enum flush_cause { CAUSE_NONE, CAUSE_SET_WAY, CAUSE_CACHE_TOGGLE };

/* Times are of CNTPCT_EL0 ("ticks", report.ticks_per_second); cycles are instructions where
 * OPTION_COUNT_CYCLES is set and QEMU counts so, and 0 otherwise. */
struct flush_record {
    uint64_t vcpu;
    uint64_t cause; /* enum flush_cause */
    uint64_t pages; /* cleaned */
    uint64_t first_run;
    uint64_t runs;
    uint64_t started; /* ticks, and cycles, since the guest's start */
    uint64_t started_cycles;
    uint64_t ticks;          /* that it took, the wait for another flush not counted */
    uint64_t cycles;         /* the same */
    uint64_t collect_cycles; /* of these: finding the pages and arming */
    uint64_t faults;         /* resolved by then, since the guest's start */
    uint64_t set_ways;       /* trapped by then */
    uint64_t pieces;         /* collected and cleaned one after the other */
    uint64_t interrupted;    /* budgets after which an interrupt of the guest was found waiting */
};

/* A run of pages that a flush cleaned. */
struct run_record {
    uint64_t gfn;
    uint64_t mfn;
    uint64_t nr;
};

/* A stage-2 abort that was resolved. */
struct fault_record {
    uint64_t gfn;
    uint64_t what; /* vCPU << 8 | FAULT_..., or-ed; level << 4 */
};

#define FAULT_FETCH 1
#define FAULT_WRITE 2
#define FAULT_STAGE1_WALK 4 /* the MMU read a table of the guest's own */

enum monitor_state { STATE_NONE, STATE_RUNNING, STATE_POWERED_OFF, STATE_RESET, STATE_PANICKED };

struct vcpu_report {
    uint64_t resolved;       /* stage-2 faults */
    uint64_t resolve_cycles; /* their handling, from EL2's vector to the return */
    uint64_t injected;       /* aborts and undefined instructions that the guest got */
    uint64_t set_ways;       /* trapped */
    uint64_t set_way_cycles; /* without the flushes */
    uint64_t vm_registers;   /* writes trapped */
    uint64_t vm_register_cycles;
    uint64_t firmware_calls;
    uint64_t starts;           /* resets, CPU_ON and the first start */
    uint64_t on_ticks;         /* of the last CPU_ON for it: ticks since the guest's start */
    uint64_t on_cycles;        /* the same */
    uint64_t caches_on_ticks;  /* when it went on with its caches on after that, or 0 */
    uint64_t caches_on_cycles; /* the same */
    uint64_t resets;           /* times it was turned off (CPU_OFF) */
    uint64_t monitor_cycles;   /* all of its time at EL2, flushes included */
};

struct report {
    uint64_t version;
    uint64_t state; /* enum monitor_state */
    uint64_t ticks_per_second;
    uint64_t ticks; /* since the guest's start; this and the sums below: at the last flush, then at
                       the end */
    uint64_t cycles;
    uint64_t flushes;
    uint64_t runs;
    uint64_t faults;
    uint64_t arms;        /* root invalidations, harvests included */
    uint64_t arm_cycles;  /* of the first, at creation or at the first Set/Way; 0: none */
    uint64_t map_cycles;  /* mapping RAM */
    uint64_t tables;      /* live stage-2 tables besides the roots, at the end */
    uint64_t mappings[4]; /* leaves by level, at the end */
    uint64_t tlb_flushes;
    uint64_t stale;       /* of the resolved faults: another vCPU had resolved the same before */
    uint64_t interrupted; /* sum over the flushes */
    uint64_t panic[4];    /* STATE_PANICKED: vCPU, ESR_EL2, ELR_EL2, FAR_EL2 */
    struct vcpu_report vcpu[MAX_VCPUS];
};

/* Hints (unallocated: a core takes them for NOP) by which the oracle beside QEMU sees where a flush
 * is: HINT #n. What a flush collected is in the logs when it sees MARK_COLLECTED. */
#define MARK_GUEST_STARTS 0x60
#define MARK_FLUSH_BEGINS 0x61
#define MARK_COLLECTED 0x62
#define MARK_CLEANED 0x63

#endif
