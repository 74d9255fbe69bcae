/*
 * What C cannot say: the entries, the exception vectors, and the way into the guest and back.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "frame.h"

#define HCR_RW (1 << 31)

    .section .text.boot, "ax"

/* vCPU 0, at EL2 with the MMU off, as QEMU's loader starts it. */
    .global _start
_start:
    ldr     x0, =__bss_start
    ldr     x1, =__bss_end
1:  cmp     x0, x1
    b.hs    2f
    str     xzr, [x0], #8
    b       1b
2:  mov     x0, #0
    bl      set_stack
    bl      mmu_fill_table

    /* All of this was stored past the caches. Lines that they may still have of it are older, and
     * must not come to light when they are on. */
    mrs     x1, ctr_el0
    ubfx    x1, x1, #16, #4 /* CTR_EL0.DminLine: the smallest line, log2 of words */
    mov     x2, #4
    lsl     x2, x2, x1
    sub     x3, x2, #1
    ldr     x0, =__bss_start
    bic     x0, x0, x3
    ldr     x1, =__bss_end
3:  dc      ivac, x0
    add     x0, x0, x2
    cmp     x0, x1
    b.lo    3b
    dsb     sy
    bl      mmu_enable
    b       monitor_start

/* The others, started by the firmware's CPU_ON, at EL2 with the MMU off; x0: the context that was
 * given with it, their number. */
    .global secondary_start
secondary_start:
    bl      set_stack
    bl      mmu_enable
    b       monitor_start_secondary

/*
 * EL2's translation and caches, as mmu.c says; x0 stays. Of a core that others run beside, this has
 * to come before the first use of the stack: what is stored there past the caches might be hidden
 * afterwards by a line that another core's speculation has fetched. HCR_EL2 is first, since E2H,
 * which may be anything at reset, decides what the other registers mean.
 */
mmu_enable:
    mov     x1, #HCR_RW
    msr     hcr_el2, x1
    isb
    ldr     x1, =mmu_registers
    ldp     x2, x3, [x1]
    msr     mair_el2, x2
    msr     tcr_el2, x3
    ldp     x2, x3, [x1, #16]
    msr     ttbr0_el2, x2
    isb
    tlbi    alle2
    ic      iallu
    dsb     sy
    isb
    msr     sctlr_el2, x3
    isb
    ret

/* x0: the vCPU's number. Stacks lie one after the other and grow down. */
set_stack:
    ldr     x1, =stacks
    add     x2, x0, #1
    mov     x3, #STACK_BYTES
    madd    x1, x2, x3, x1
    mov     sp, x1
    ldr     x1, =vectors
    msr     vbar_el2, x1
    isb
    ret

/*
 * An exception from the guest: its registers go into a struct frame on the stack, and C has it.
 * There is nothing else on the stack of a vCPU that runs its guest. The counter is read first, so
 * that what a trap costs is all of it but the last dozen instructions.
 */
    .text
    .macro save_registers
    sub     sp, sp, #FRAME_BYTES
    stp     x0, x1, [sp, #16 * 0]
    mrs     x0, pmccntr_el0
    str     x0, [sp, #FRAME_ENTERED]
    stp     x2, x3, [sp, #16 * 1]
    stp     x4, x5, [sp, #16 * 2]
    stp     x6, x7, [sp, #16 * 3]
    stp     x8, x9, [sp, #16 * 4]
    stp     x10, x11, [sp, #16 * 5]
    stp     x12, x13, [sp, #16 * 6]
    stp     x14, x15, [sp, #16 * 7]
    stp     x16, x17, [sp, #16 * 8]
    stp     x18, x19, [sp, #16 * 9]
    stp     x20, x21, [sp, #16 * 10]
    stp     x22, x23, [sp, #16 * 11]
    stp     x24, x25, [sp, #16 * 12]
    stp     x26, x27, [sp, #16 * 13]
    stp     x28, x29, [sp, #16 * 14]
    mrs     x0, elr_el2
    mrs     x1, spsr_el2
    stp     x30, x0, [sp, #16 * 15]
    str     x1, [sp, #FRAME_SPSR]
    .endm

from_guest:
    save_registers
    mov     x0, sp
    bl      handle_trap
    mov     x0, sp

/* _Noreturn void enter_guest(const struct frame *frame): the frame becomes the registers. What lies
 * below its end on the stack is forgotten. */
    .global enter_guest
enter_guest:
    mov     sp, x0
    ldr     x1, [sp, #FRAME_SPSR]
    ldp     x30, x0, [sp, #16 * 15]
    msr     elr_el2, x0
    msr     spsr_el2, x1
    ldp     x2, x3, [sp, #16 * 1]
    ldp     x4, x5, [sp, #16 * 2]
    ldp     x6, x7, [sp, #16 * 3]
    ldp     x8, x9, [sp, #16 * 4]
    ldp     x10, x11, [sp, #16 * 5]
    ldp     x12, x13, [sp, #16 * 6]
    ldp     x14, x15, [sp, #16 * 7]
    ldp     x16, x17, [sp, #16 * 8]
    ldp     x18, x19, [sp, #16 * 9]
    ldp     x20, x21, [sp, #16 * 10]
    ldp     x22, x23, [sp, #16 * 11]
    ldp     x24, x25, [sp, #16 * 12]
    ldp     x26, x27, [sp, #16 * 13]
    ldp     x28, x29, [sp, #16 * 14]
    ldp     x0, x1, [sp, #16 * 0]
    add     sp, sp, #FRAME_BYTES
    eret

/* An exception at EL2 is a mistake of the monitor's own: it tells, and stops the machine. */
at_el2:
    mrs     x0, esr_el2
    mrs     x1, elr_el2
    mrs     x2, far_el2
    b       monitor_panic

/* void firmware_call(uint64_t arguments[4]): SMC by the calling convention of Arm DEN 0028; the
 * results are put where the arguments were. */
    .global firmware_call
firmware_call:
    stp     x29, x30, [sp, #-32]!
    str     x0, [sp, #16]
    ldp     x2, x3, [x0, #16]
    ldp     x0, x1, [x0]
    smc     #0
    ldr     x4, [sp, #16]
    stp     x0, x1, [x4]
    stp     x2, x3, [x4, #16]
    ldp     x29, x30, [sp], #32
    ret

/* Sixteen vectors of 0x80 bytes: from EL2 with SP_EL0, from EL2, from an AArch64 guest, from an
 * AArch32 one; in each synchronous, IRQ, FIQ, SError (Arm ARM DDI 0487, D1.3, exception vectors).
 * The guest has the interrupts: HCR_EL2.{IMO,FMO,AMO} are 0, and none comes here. */
    .balign 0x800
vectors:
    .rept   8
    b       at_el2
    .balign 0x80
    .endr
    .rept   2
    b       from_guest
    .balign 0x80
    b       at_el2
    .balign 0x80
    b       at_el2
    .balign 0x80
    b       at_el2
    .balign 0x80
    .endr
