/*
 * What C cannot say: the entry at reset, the exception vectors, and the way to EL1 and back.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "monitor.h"

    .text
    .global _start
_start:
    ldr     x0, =MONITOR_STACK
    mov     sp, x0
    adrp    x0, vectors
    add     x0, x0, :lo12:vectors
    msr     vbar_el2, x0
    isb
    b       monitor

/*
 * void enter_guest(uint64_t *mail): runs EL1 from mail[MAIL_PC] with mail[MAIL_X0] and
 * mail[MAIL_X1]; returns after its first exception, with what an EL2 handler would read. The guest's
 * code is a few instructions long and uses x0 to x2: no other register of ours is lost. The syndrome
 * registers begin with a value that no abort leaves, so that one which is not written is noticed.
 */
    .global enter_guest
enter_guest:
    stp     x29, x30, [sp, #-16]!
    msr     tpidr_el2, x0
    ldr     x1, [x0, #8 * MAIL_PC]
    msr     elr_el2, x1
    mov     x1, #0x3c5 /* EL1h, interrupts masked */
    msr     spsr_el2, x1
    mov     x1, #-1
    msr     esr_el2, x1
    msr     far_el2, x1
    msr     hpfar_el2, x1
    mov     x2, #0
    ldr     x1, [x0, #8 * MAIL_X1]
    ldr     x0, [x0, #8 * MAIL_X0]
    eret

left_guest:
    mrs     x0, tpidr_el2
    str     x1, [x0, #8 * MAIL_X1]
    str     x2, [x0, #8 * MAIL_X2]
    mrs     x1, esr_el2
    str     x1, [x0, #8 * MAIL_ESR]
    mrs     x1, far_el2
    str     x1, [x0, #8 * MAIL_FAR]
    mrs     x1, hpfar_el2
    str     x1, [x0, #8 * MAIL_HPFAR]
    ldp     x29, x30, [sp], #16
    ret

/* An exception that nobody provoked, at EL2 or an asynchronous one: say so, and stop. */
lost:
    ldr     x0, =MAIL_BASE
    mrs     x1, esr_el2
    str     x1, [x0, #8 * MAIL_ESR]
    mrs     x1, elr_el2
    str     x1, [x0, #8 * MAIL_PC]
    mov     x1, #1
    str     x1, [x0, #8 * MAIL_LOST]
1:  wfi
    b       1b

/* Sixteen vectors of 0x80 bytes; the synchronous one of a lower level in AArch64 is the guest's
 * (Arm ARM DDI 0487, D1.3, exception vectors). */
    .balign 0x800
vectors:
    .rept   8
    b       lost
    .balign 0x80
    .endr
    b       left_guest
    .balign 0x80
    .rept   7
    b       lost
    .balign 0x80
    .endr
