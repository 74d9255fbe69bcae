/*
 * A thin monitor at EL2: one guest, its vCPUs one to one on the machine's, all of RAM but the
 * monitor's own mapped to itself. The stage-2 tables are the engine's (csrc/), Set/Way is answered
 * as the policy says, and what it took is left in memory (interface.h).
 *
 *     boot.S       entries, vectors, the guest's registers
 *     main.c       the start of each vCPU; what EL2 traps; the end
 *     mmu.c        EL2's own stage 1, with caches
 *     stage2.c     the engine's platform at EL2, and the guest's map
 *     traps.c      what the guest traps on, and what is done
 *     sysregs.c    the VM registers' reads and writes
 *     rules.c      the rules of Set/Way and aborts, as in p2mfast.hypervisor
 *     syndrome.c   what a trap's syndrome says
 *     inject.c     an exception for the guest
 *     flush.c      a flush: collect, arm, clean
 *     psci.c       calls to the firmware: vCPUs on and off, power off
 *     report.c     what is measured
 *     stub.S       a small guest that shows a missing TLB invalidation
 *     stub32.s     another, in AArch32, that watches its own traps
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EL2_MONITOR_MONITOR_H
#define EL2_MONITOR_MONITOR_H

#include <stdbool.h>
#include <stdint.h>
#include "frame.h"
#include "interface.h"
#include "p2mfast/p2mfast.h"
#include "rules.h"

struct vcpu {
    unsigned index;
    struct rules_vcpu rules;
    struct vcpu_report *report;
    bool came_up; /* it has turned its caches on in this trap, the first time since its start */
    /* How the next CPU_ON is to enter the guest, and when it was called. `starting` until the vCPU
     * has read it. */
    uint64_t entry;
    uint64_t context;
    uint64_t on_ticks;
    uint64_t on_cycles;
    bool starting;
};

/* main.c */
extern struct vcpu vcpus[MAX_VCPUS];
extern char monitor_base[]; /* by the linker */
const struct parameters *parameters(void);
struct vcpu *this_vcpu(void);
/* HCR_EL2.TVM as the rules have it. */
void trap_vm_registers(const struct vcpu *vcpu);
_Noreturn void monitor_start(void);
_Noreturn void monitor_start_secondary(unsigned index);
_Noreturn void monitor_panic(uint64_t esr, uint64_t elr, uint64_t far);

/* mmu.c */
/* For boot.S, which turns the MMU on. */
extern const uint64_t mmu_registers[];
void mmu_fill_table(void);

/* stage2.c */
struct p2mfast *stage2(void);
/* Map the guest, and arm it if the policy wants that now. */
void stage2_create(void);
/* VTCR_EL2 and VTTBR_EL2 of this core. */
void stage2_enter(void);
/* Clear bit 0 of the root; counted. */
void stage2_arm(void);
/* Is tracking on: will what is touched be told from what is not? */
bool stage2_tracks(void);

/* traps.c */
void handle_trap(struct frame *frame);

/* sysregs.c */
uint64_t vm_register_read(enum vm_register name);
void vm_register_write(enum vm_register name, uint64_t value);

/* flush.c */
void flush(struct vcpu *vcpu);

/* psci.c */
void handle_firmware_call(struct vcpu *vcpu, struct frame *frame);
_Noreturn void power_off(void);

/* report.c */
struct report *report(void);
void report_start(void);
/* What is summed up at each flush, and at the end. */
void report_sums(void);
void report_end(enum monitor_state state);
uint64_t report_ticks(void); /* since the guest's start */
uint64_t report_cycles(void);
void report_fault(const struct vcpu *vcpu, uint64_t gfn, unsigned level, unsigned what);
/* The next flush's record, or one that is not kept. */
struct flush_record *report_flush(void);
/* Room for runs behind those that are kept; the number of runs it is for, 0 where too little is
 * left. */
uint64_t report_run_room(p2mfast_run_t **runs);
void report_runs(uint64_t n);

#endif
