/*
 * What a trap to EL2 says of itself: system register accesses, aborts, and how to go on behind an
 * instruction that was done for the guest. The same as p2mfast/hypervisor/syndrome.py, in C.
 *
 * Pure: nothing here reads or writes a register, so that a host can test it. Section numbers are
 * those of the Arm ARM, DDI 0487.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EL2_MONITOR_SYNDROME_H
#define EL2_MONITOR_SYNDROME_H

#include <stdbool.h>
#include <stdint.h>
#include "p2mfast/p2mfast.h"

/* Exception classes (D19.2, ESR_EL2, EC). */
enum exception_class {
    CLASS_UNKNOWN = 0x00,
    CLASS_CP15 = 0x03,    /* MCR, MRC */
    CLASS_CP15_64 = 0x04, /* MCRR, MRRC */
    CLASS_HVC32 = 0x12,
    CLASS_SMC32 = 0x13,
    CLASS_HVC64 = 0x16,
    CLASS_SMC64 = 0x17,
    CLASS_SYSTEM = 0x18, /* MSR, MRS, SYS */
    CLASS_FETCH_LOWER = 0x20,
    CLASS_FETCH_SAME = 0x21,
    CLASS_DATA_LOWER = 0x24,
    CLASS_DATA_SAME = 0x25,
};

static inline enum exception_class exception_class(uint64_t esr)
{
    return (enum exception_class)(esr >> 26 & 0x3f);
}

/* ---- System registers ---- */

/* What HCR_EL2.TVM traps the writes of (D19.2, HCR_EL2), by the AArch64 names: AArch32's registers
 * are these, or halves of them (G8.2, "is architecturally mapped to"). */
enum vm_register {
    VM_NONE,
    VM_SCTLR_EL1,
    VM_TTBR0_EL1,
    VM_TTBR1_EL1,
    VM_TCR_EL1,   /* TTBCR, TTBCR2 */
    VM_ESR_EL1,   /* DFSR */
    VM_FAR_EL1,   /* DFAR, IFAR */
    VM_AFSR0_EL1, /* ADFSR */
    VM_AFSR1_EL1, /* AIFSR */
    VM_MAIR_EL1,  /* PRRR and NMRR, or MAIR0 and MAIR1 */
    VM_AMAIR_EL1,
    VM_CONTEXTIDR_EL1,
    VM_DACR32_EL2, /* DACR */
    VM_IFSR32_EL2, /* IFSR */
};

enum access_kind { ACCESS_OTHER, ACCESS_SET_WAY, ACCESS_VM_REGISTER };

/* How much of the AArch64 register an access moves. */
enum access_part {
    PART_64,   /* all of it, from one register */
    PART_32,   /* a 32-bit register that is mapped to it, and has no other half */
    PART_LOW,  /* bits 31:0 */
    PART_HIGH, /* bits 63:32 */
    PART_PAIR, /* all of it, from two registers: MCRR */
};

struct register_access {
    enum access_kind kind;
    enum vm_register name; /* VM_NONE, unless kind is ACCESS_VM_REGISTER */
    enum access_part part;
    bool read;
    /* Numbers of X registers: of AArch32's banked registers ESR_EL2 has the AArch64 view (D19.2,
     * ESR_EL2, Rt). 31 is XZR. rt2 is of MCRR and MRRC. */
    unsigned rt;
    unsigned rt2;
};

/* ESR_EL2 of class CLASS_CP15, CLASS_CP15_64 or CLASS_SYSTEM; of another one: ACCESS_OTHER. */
struct register_access decode_register_access(uint64_t esr);

/* What the register holds after the write: `old` before it, x_rt and x_rt2 what is in those
 * registers (0 for XZR; their upper halves say nothing in AArch32 state). */
uint64_t written_value(const struct register_access *access, uint64_t old, uint64_t x_rt,
                       uint64_t x_rt2);

/* ---- Instructions ---- */

/* Is the trapped instruction executed at all? An AArch32 instruction may trap though its condition
 * does not hold. Of any class that has CV and COND (D19.2: CP15, SMC, ...), or of AArch64. */
bool condition_holds(uint64_t esr, uint64_t spsr);

/* Go on behind it: ELR_EL2 and SPSR_EL2. An SMC that HCR_EL2.TSC traps is not behind itself. */
void skip_instruction(uint64_t esr, uint64_t *elr, uint64_t *spsr);

/* ---- Aborts ---- */

struct abort {
    enum p2mfast_fault fault; /* P2MFAST_FAULT_NONE: another status code (alignment, parity, ...) */
    int level;                /* of the descriptor that faulted; -1: none is told */
    unsigned access;          /* P2MFAST_READ, P2MFAST_WRITE or P2MFAST_EXECUTE */
    bool fetch;
    bool maintenance; /* a cache maintenance instruction: no write, whatever WnR says */
    bool stage1_walk; /* the MMU read a table of the guest's own: gpa's bits 11:0 say nothing */
    bool far_valid;
    uint64_t far; /* as the guest addressed it */
    uint64_t gpa;
};

/* ESR_EL2 of class CLASS_FETCH_LOWER or CLASS_DATA_LOWER, FAR_EL2 and HPFAR_EL2; the guest's EL1 is
 * of so many bits: an AArch32 guest has no address beyond 32. `gpa` is out of HPFAR_EL2, which a
 * core need not fill in for a permission fault outside of stage 1's walks (D19.2, HPFAR_EL2): of
 * those the caller has to find it. */
struct abort decode_abort(uint64_t esr, uint64_t far, uint64_t hpfar, unsigned bits);

#endif
