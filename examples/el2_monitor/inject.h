/*
 * An exception for the guest, as if its own core had taken it to EL1: where it goes on, in which
 * state, and what its registers say of it. Aborts are synchronous external ones: the guest's own
 * tables are not to blame.
 *
 * Pure, as syndrome.h: the caller fills in a struct from the registers, and puts it back.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EL2_MONITOR_INJECT_H
#define EL2_MONITOR_INJECT_H

#include <stdbool.h>
#include <stdint.h>
#include "rules.h"

/* In: all but elr and spsr. Out: all but the controls. */
struct guest_state {
    uint64_t pc;     /* ELR_EL2 */
    uint64_t pstate; /* SPSR_EL2 */
    /* Controls */
    uint64_t sctlr; /* SCTLR_EL1 */
    uint64_t vbar;  /* VBAR_EL1 */
    uint64_t tcr;   /* TCR_EL1; bit 31 is TTBCR.EAE. Of an AArch32 guest only */
    /* What the exception leaves */
    uint64_t elr;  /* ELR_EL1; of an AArch32 guest R14 of the new mode */
    uint64_t spsr; /* SPSR_EL1; of an AArch32 guest SPSR_und or SPSR_abt */
    uint64_t esr;  /* ESR_EL1, DFSR */
    uint64_t ifsr; /* IFSR32_EL2. Of an AArch32 guest only */
    uint64_t far;  /* FAR_EL1; DFAR and IFAR are its halves */
};

/* The X registers that are R14 of the modes that an AArch32 guest takes these exceptions to (Arm
 * ARM, "Mapping of the general-purpose registers"): Undefined for INJECT_UNDEFINED, else Abort. */
#define X_OF_LR_ABT 20
#define X_OF_LR_UND 22

struct exception {
    enum injection kind; /* not INJECT_SERROR */
    bool far_valid;      /* of an abort: `far` is what the guest addressed */
    uint64_t far;
};

/* To an EL1 in AArch64 state, from there or from EL0 in either state. */
void inject_aarch64(struct guest_state *guest, const struct exception *exception);

/* To an EL1 in AArch32 state, from any mode. */
void inject_aarch32(struct guest_state *guest, const struct exception *exception);

#endif
