/*
 * Has EL1 take exceptions by itself, in all its states, and writes down what each leaves. The
 * vectors at EL1 are HVCs, so that EL2 sees the state behind the entry.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "exceptions.h"

#define PSCI_SYSTEM_OFF 0x84000008
#define SPSR_AARCH32 4 /* bits */
#define SPSR_T 5

    .text
    .global _start
_start:
    adr     x0, vectors
    msr     vbar_el2, x0
    mov     x0, #0x33ff /* no traps of floating point: RES1 */
    msr     cptr_el2, x0
    ldr     x0, =CASES
    msr     tpidr_el2, x0

next:
    mrs     x0, tpidr_el2
    ldr     x1, [x0, #8 * CASE_HCR]
    msr     hcr_el2, x1
    ldr     x1, [x0, #8 * CASE_PC]
    msr     elr_el2, x1
    ldr     x1, [x0, #8 * CASE_PSTATE]
    msr     spsr_el2, x1
    ldr     x1, [x0, #8 * CASE_SCTLR]
    msr     sctlr_el1, x1
    ldr     x1, [x0, #8 * CASE_VBAR]
    msr     vbar_el1, x1
    ldr     x1, [x0, #8 * CASE_TCR]
    msr     tcr_el1, x1
    ldr     x1, [x0, #8 * CASE_ESR]
    msr     esr_el1, x1
    ldr     x1, [x0, #8 * CASE_IFSR]
    msr     ifsr32_el2, x1
    ldr     x1, [x0, #8 * CASE_FAR]
    msr     far_el1, x1
    ldr     x4, [x0, #8 * CASE_ADDRESS]
    isb
    eret

from_el1:
    mrs     x0, tpidr_el2
    ldr     x2, [x0, #8 * TAKEN_CLASS]
    cbnz    x2, spsr_was_read
    mrs     x2, esr_el2
    str     x2, [x0, #8 * TAKEN_CLASS]
    mrs     x2, elr_el2
    str     x2, [x0, #8 * TAKEN_PC]
    mrs     x2, elr_el1
    str     x2, [x0, #8 * TAKEN_ELR]
    str     x20, [x0, #8 * TAKEN_LR_ABT]
    str     x22, [x0, #8 * TAKEN_LR_UND]
    mrs     x2, esr_el1
    str     x2, [x0, #8 * TAKEN_ESR]
    mrs     x2, ifsr32_el2
    str     x2, [x0, #8 * TAKEN_IFSR]
    mrs     x2, far_el1
    str     x2, [x0, #8 * TAKEN_FAR]
    mrs     x1, spsr_el1
    mrs     x2, spsr_el2
    str     x2, [x0, #8 * TAKEN_PSTATE]
    tbz     x2, #SPSR_AARCH32, spsr_was_read
    /* AArch32's SPSR is read in its own mode: QEMU 7.2 has no other way to it. */
    ldr     x1, =READ_SPSR_ARM
    tbz     x2, #SPSR_T, 1f
    ldr     x1, =READ_SPSR_THUMB
1:  msr     elr_el2, x1
    eret

/* x1: SPSR. */
spsr_was_read:
    str     x1, [x0, #8 * TAKEN_SPSR]
    ldr     x2, [x0, #8 * CASE_LEFT]
    add     x0, x0, #8 * CASE_WORDS
    msr     tpidr_el2, x0
    cmp     x2, #1
    b.ne    next
    ldr     w0, =PSCI_SYSTEM_OFF
    smc     #0
    b       .

    .balign 0x800
vectors:
    .rept   8 /* an exception at EL2: the test times out */
    b       .
    .balign 0x80
    .endr
    .rept   8
    b       from_el1
    .balign 0x80
    .endr
