/*
 * A strange guest for the monitor of examples/el2_monitor: it does what it is told by a list behind
 * its code (test_qemu_strange.py appends it), one thing after the other, and writes down what came
 * of each.
 *
 * x0: where to; x1: how many things. Each is five doublewords, a kind and four values; each answer
 * is three: a result, and ESR_EL1 and FAR_EL1 of the exception that came instead, or 0.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define SCTLR_M_C 0x5
#define TCR_39_BITS 0x100803519 /* as in stub.S */
#define MAIR_WRITE_BACK 0xff
#define BLOCK_OF_RAM 0x40000701
#define PSCI_SYSTEM_OFF 0x84000008
#define PAGE 0x1000

    .global _start
_start:
    mov     x20, x0
    mov     x21, x1
    adr     x22, list
    adr     x2, vectors
    msr     vbar_el1, x2
    adr     x26, table
    msr     ttbr0_el1, x26
    ldr     x2, =TCR_39_BITS
    msr     tcr_el1, x2
    mov     x2, #MAIR_WRITE_BACK
    msr     mair_el1, x2
    mrs     x25, sctlr_el1
    adr     x28, done
    isb

next:
    cbz     x21, off
    sub     x21, x21, #1
    ldp     x9, x0, [x22]
    ldp     x1, x2, [x22, #16]
    ldr     x3, [x22, #32]
    add     x22, x22, #40
    mov     x23, #0 /* ESR_EL1, FAR_EL1 */
    mov     x24, #0
    adr     x10, kinds
    add     x10, x10, x9, lsl #3
    br      x10
kinds:
    smc     #0 /* 0: of x0 to x3 */
    b       done
    hvc     #0 /* 1: of x0 to x3 */
    b       done
    ldr     x0, [x0] /* 2: load from x0 */
    b       done
    str     x0, [x0] /* 3: store to x0 */
    b       done
    br      x0 /* 4: fetch from x0 */
    b       .
    b       by_stage1 /* 5: load by way of the descriptor x0 */
    b       .

by_stage1:
    str     x0, [x26, #16]
    dsb     sy
    mov     x1, #SCTLR_M_C
    orr     x1, x25, x1
    msr     sctlr_el1, x1
    isb
    mov     x0, #0x80000000
    ldr     x0, [x0]

done:
    msr     sctlr_el1, x25
    isb
    stp     x0, x23, [x20], #16
    str     x24, [x20], #8
    b       next

off:
    ldr     w0, =PSCI_SYSTEM_OFF
    smc     #0
    b       .
    .ltorg

    .balign 0x800
vectors:
    .rept   16
    mrs     x23, esr_el1
    mrs     x24, far_el1
    msr     elr_el1, x28
    eret
    .balign 0x80
    .endr

    .balign PAGE
table: /* of level 1 */
    .quad   0
    .quad   BLOCK_OF_RAM
    .balign PAGE
list:
