@ A 32-bit guest that makes the monitor's traps happen, and looks at what has come of each: register
@ writes in Arm and Thumb code, under conditions and in IT blocks, from banked registers; of halves
@ of a register, and of both at once; aborts and undefined instructions that it is given.
@
@ r0: its result, RESULT_... below
@ r1: the start of a page that stage 2 does not map
@ r2: 1, where Set/Way is refused (parameters.iommu_shared), else 0
@
@ SPSR is not looked at: QEMU 7.2, returning from EL2 to another mode of an AArch32 EL1 than it came
@ from, has the SPSR of the old mode for that of the new one, whatever EL2 has written to the latter.
@ So the handlers are told the state to go back to.
@
@ It has to be loaded at the start of a page, is position-independent, and ends in SYSTEM_OFF.
@
@     arm-linux-gnueabihf-as -o stub32.o stub32.s
@     arm-linux-gnueabihf-objcopy -O binary stub32.o stub32.bin
@
@ SPDX-License-Identifier: Apache-2.0
    .syntax unified
    .arch   armv7-a
    .arch_extension sec
    .arch_extension virt
    .arm

    .equ    RESULT_PASSED, 0        @ checks that passed
    .equ    RESULT_GOT, 4           @ of the first one that did not
    .equ    RESULT_WANTED, 8
    .equ    RESULT_FINISHED, 12     @ 1: none failed
    .equ    RESULT_WRITES, 16       @ of VM registers, since the first Set/Way operation
    .equ    TAKEN_LR, 32            @ what the last exception left
    .equ    TAKEN_CPSR, 36
    .equ    TAKEN_VECTOR, 40
    .equ    GO_ON_AT, 44            @ where, behind a prefetch abort
    .equ    GO_ON_CPSR, 48          @ in which state, behind any exception

    .equ    MODE_FIQ, 0x11
    .equ    MODE_IRQ, 0x12
    .equ    MODE_SVC, 0x13
    .equ    CPSR_SVC, 0x0d3         @ I and F masked: A is not, so that an abort is seen to mask it
    .equ    CPSR_ABT, 0x1d7
    .equ    CPSR_UND, 0x0db
    .equ    CPSR_T, 0x020
    .equ    CPSR_IT_OF_ITET_EQ, 0x04000800  @ 0b00001010: IT[7:2] in bits 15:10, IT[1:0] in 26:25
    .equ    CPSR_Z, 0x40000000
    .equ    CPSR_FLAGS, 0xf0000000

    .equ    TTBCR_EAE, 0x80000000   @ Long-descriptor tables
    .equ    FSR_SHORT, 0x008        @ a synchronous external abort, in DFSR and IFSR
    .equ    FSR_LONG, 0x210

    .equ    PSCI_SYSTEM_OFF, 0x84000008

@ r8 counts writes, r9 is what an exception returns to: this far below LR; r10 and r11 are the first
@ two arguments; r0, r1 and r12 are scratch.

    .macro  expect register, value:vararg
    mov     r0, \register
    ldr     r1, =\value
    bl      check
    .endm

    @ A register of CP15 is written, and read.
    .macro  write_and_read value, where:vararg
    ldr     r4, =\value
    mcr     p15, 0, r4, \where
    add     r8, #1
    mrc     p15, 0, r5, \where
    expect  r5, \value
    .endm

    .macro  to_thumb
    add     r12, pc, #1
    bx      r12
    .thumb
    .endm

    .macro  to_arm
    .balign 4
    bx      pc
    nop
    .arm
    .endm

    @ CONTEXTIDR is written from a banked register.
    .macro  write_from_mode mode, register, value
    cps     #\mode
    ldr     \register, =\value
    mcr     p15, 0, \register, c13, c0, 1
    cps     #MODE_SVC
    add     r8, #1
    mrc     p15, 0, r5, c13, c0, 1
    expect  r5, \value
    .endm

    .macro  go_on_in cpsr:vararg
    ldr     r12, =\cpsr
    str     r12, [r10, #GO_ON_CPSR]
    .endm

    @ The exception was taken in this state (but for flags), by this vector, with LR so far behind
    @ the instruction at the label.
    .macro  expect_taken cpsr, vector, label, behind
    ldr     r2, [r10, #TAKEN_VECTOR]
    expect  r2, \vector
    ldr     r2, [r10, #TAKEN_LR]
    adr     r3, \label
    bic     r3, #1                  @ of a Thumb label
    sub     r2, r3
    expect  r2, \behind
    ldr     r2, [r10, #TAKEN_CPSR]
    bic     r2, #CPSR_FLAGS
    expect  r2, \cpsr
    .endm

    .global _start
_start:
    b       start

    .balign 32
vectors:
    b       .
    b       take_undefined
    b       .
    b       take_prefetch_abort
    b       take_data_abort

    .macro  take vector
    str     lr, [r10, #TAKEN_LR]
    mrs     r12, cpsr
    str     r12, [r10, #TAKEN_CPSR]
    mov     r12, #\vector
    str     r12, [r10, #TAKEN_VECTOR]
    ldr     r12, [r10, #GO_ON_CPSR]
    msr     spsr_cxsf, r12
    .endm

take_undefined:
    take    0x04
    subs    pc, lr, r9
take_prefetch_abort:
    take    0x0c
    ldr     lr, [r10, #GO_ON_AT]
    movs    pc, lr
take_data_abort:
    take    0x10
    mov     r4, r10
    subs    pc, lr, r9

start:
    mov     r10, r0
    mov     r11, r1
    mov     r8, #0
    adr     r12, vectors
    mcr     p15, 0, r12, c12, c0, 0 @ VBAR
    cpsie   a
    cmp     r2, #0
    bne     refused

    @ ---- Set/Way: three operations that are executed, two that are not ----

    mov     r0, #0
    cmp     r0, #0
    mcrne   p15, 0, r0, c7, c6, 2   @ DCISW
    mcreq   p15, 0, r0, c7, c14, 2  @ DCCISW: VM registers trap from here on
    mcreq   p15, 0, r0, c7, c10, 2  @ DCCSW
    mrs     r3, cpsr
    expect  r3, CPSR_SVC | 0x60000000
    cmp     r10, r10
    to_thumb
    ite     ne
    mcrne   p15, 0, r0, c7, c6, 2
    mcreq   p15, 0, r0, c7, c6, 2
    to_arm

    @ ---- VM registers ----

    write_and_read 0x55555555, c3, c0, 0  @ DACR
    write_and_read 0x00000805, c5, c0, 0  @ DFSR
    write_and_read 0x00000005, c5, c0, 1  @ IFSR
    write_and_read 0x12345678, c13, c0, 1 @ CONTEXTIDR
    mrc     p15, 0, r5, c5, c0, 0
    expect  r5, 0x00000805

    @ Halves of a register leave the other half alone.
    write_and_read 0x11223344, c6, c0, 0 @ DFAR
    write_and_read 0x55667788, c6, c0, 2 @ IFAR
    mrc     p15, 0, r5, c6, c0, 0
    expect  r5, 0x11223344
    write_and_read 0x99aabbcc, c6, c0, 0
    mrc     p15, 0, r5, c6, c0, 2
    expect  r5, 0x55667788
    write_and_read TTBCR_EAE, c2, c0, 2
    write_and_read 0xff440400, c10, c2, 0 @ MAIR0
    write_and_read 0x04bbff44, c10, c2, 1 @ MAIR1
    mrc     p15, 0, r5, c10, c2, 0
    expect  r5, 0xff440400

    @ Both halves at once, then the low one.
    ldr     r4, =0x12345000
    ldr     r5, =0x005a0012
    mcrr    p15, 0, r4, r5, c2      @ TTBR0
    mcrr    p15, 1, r5, r4, c2      @ TTBR1
    add     r8, #2
    mrrc    p15, 0, r6, r7, c2
    expect  r6, 0x12345000
    expect  r7, 0x005a0012
    mrrc    p15, 1, r6, r7, c2
    expect  r6, 0x005a0012
    expect  r7, 0x12345000
    ldr     r4, =0x6789a000
    mcr     p15, 0, r4, c2, c0, 0
    add     r8, #1
    mrrc    p15, 0, r6, r7, c2
    expect  r6, 0x6789a000
    expect  r7, 0x005a0012

    write_from_mode MODE_FIQ, r8, 0x1001
    write_from_mode MODE_FIQ, r12, 0x1002
    write_from_mode MODE_FIQ, lr, 0x1003
    write_from_mode MODE_IRQ, lr, 0x1004
    write_from_mode MODE_IRQ, sp, 0x1005
    write_from_mode MODE_SVC, lr, 0x1006
    b       1f
    .ltorg
1:
    @ ---- Conditions and IT blocks ----

    mov     r4, #0x11
    mov     r6, #0x22
    mov     r5, #0
    mov     r7, #0
    cmp     r10, r10
    mcreq   p15, 0, r4, c13, c0, 1
    mcrne   p15, 0, r6, c13, c0, 1
    add     r8, #1
    mrc     p15, 0, r3, c13, c0, 1
    expect  r3, 0x11

    cmp     r10, r10
    to_thumb
    itett   eq
    mcreq   p15, 0, r6, c13, c0, 1
    movne   r5, #1
    mcreq   p15, 0, r4, c3, c0, 0
    moveq   r7, #1
    mov     r2, #5
    to_arm
    add     r8, #2
    expect  r2, 5
    expect  r5, 0
    expect  r7, 1
    mrc     p15, 0, r3, c13, c0, 1
    expect  r3, 0x22
    mrc     p15, 0, r3, c3, c0, 0
    expect  r3, 0x11

    cmp     r10, #0                 @ it is not
    to_thumb
    ittee   ne
    mcrrne  p15, 1, r4, r6, c2
    movne   r5, #2
    mcreq   p15, 0, r6, c3, c0, 0
    moveq   r7, #3
    to_arm
    add     r8, #1
    expect  r5, 2
    expect  r7, 1
    mrrc    p15, 1, r2, r3, c2
    expect  r2, 0x11
    expect  r3, 0x22
    mrc     p15, 0, r3, c3, c0, 0
    expect  r3, 0x11

    @ ---- Aborts, with both kinds of tables ----

    ldr     r6, =FSR_LONG
    bl      aborts
    mov     r4, #0
    mcr     p15, 0, r4, c2, c0, 2   @ TTBCR
    add     r8, #1
    ldr     r6, =FSR_SHORT
    bl      aborts
    b       finished

    @ r6: what DFSR and IFSR are to say.
aborts:
    mov     r7, lr
    go_on_in CPSR_SVC
    mov     r9, #4                  @ behind the load
    mov     r4, r11
data_abort:
    ldr     r5, [r4, #0x124]
    expect_taken CPSR_ABT, 0x10, data_abort, 8
    bl      expect_data_abort
    mrc     p15, 0, r3, c6, c0, 0   @ DFAR
    sub     r3, r11
    expect  r3, 0x124

    go_on_in CPSR_SVC | CPSR_T | CPSR_IT_OF_ITET_EQ | CPSR_Z
    mov     r9, #8                  @ the load again, which the handler has given another address
    mov     r4, r11
    mov     r5, #0
    mov     r2, #0
    cmp     r10, r10
    to_thumb
    itet    eq
data_abort_thumb:
    ldreq   r3, [r4]
    movne   r5, #1
    moveq   r2, #1
    to_arm
    expect  r2, 1
    expect  r5, 0
    expect_taken CPSR_ABT, 0x10, data_abort_thumb, 8
    bl      expect_data_abort

    go_on_in CPSR_SVC
    adr     r2, prefetch_aborted
    str     r2, [r10, #GO_ON_AT]
    bx      r11
prefetch_aborted:
    ldr     r2, [r10, #TAKEN_LR]
    sub     r2, r11
    expect  r2, 4
    ldr     r2, [r10, #TAKEN_VECTOR]
    expect  r2, 0x0c
    ldr     r2, [r10, #TAKEN_CPSR]
    bic     r2, #CPSR_FLAGS
    expect  r2, CPSR_ABT
    mrc     p15, 0, r0, c5, c0, 1   @ IFSR
    mov     r1, r6
    bl      check
    mrc     p15, 0, r0, c6, c0, 2   @ IFAR
    mov     r1, r11
    bl      check
    bx      r7

expect_data_abort:
    mov     r2, lr
    mrc     p15, 0, r0, c5, c0, 0   @ DFSR
    mov     r1, r6
    bl      check
    bx      r2

    @ ---- Undefined instructions ----

refused:
    go_on_in CPSR_SVC
    mov     r9, #0
undefined:
    mcr     p15, 0, r0, c7, c14, 2
    expect_taken CPSR_UND, 0x04, undefined, 4
    go_on_in CPSR_SVC | CPSR_T
    mvn     r9, #1                  @ LR is in the middle of the instruction
    to_thumb
undefined_thumb:
    mcr     p15, 0, r0, c7, c14, 2
    to_arm
    expect_taken CPSR_UND, 0x04, undefined_thumb, 2

finished:
    str     r8, [r10, #RESULT_WRITES]
    mov     r0, #1
    str     r0, [r10, #RESULT_FINISHED]
power_off:
    ldr     r0, =PSCI_SYSTEM_OFF
    smc     #0
    b       .

check:
    cmp     r0, r1
    bne     1f
    ldr     r12, [r10, #RESULT_PASSED]
    add     r12, #1
    str     r12, [r10, #RESULT_PASSED]
    bx      lr
1:  str     r0, [r10, #RESULT_GOT]
    str     r1, [r10, #RESULT_WANTED]
    b       power_off
