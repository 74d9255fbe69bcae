/*
 * A guest that shows whether stage 2's TLB entries are invalidated when pages are armed.
 *
 * It writes to some pages, cleans by Set/Way, writes to the same pages again, and turns its caches
 * on. The Set/Way operation and the change of the caches trap, and each is answered by a flush,
 * which collects what was touched and arms it again. So, of n pages:
 *
 *     faults   1 + n   its own code, and each page, since the guest was armed when it was created
 *              1 + n   the same again behind the first flush, which armed them
 *              2       the table of stage 1 and its own code, behind the second
 *     pages    1 + n   in the first flush, and in the second
 *
 * A monitor that leaves the TLBs alone (OPTION_NO_TLBI) has the faults of the first and last lines
 * only: the second time the core finds its old entries and never looks at the tables. Then the
 * second flush finds no page, and what the guest wrote in between stays dirty. The boot of a real
 * guest does not show that, for it invalidates TLBs by itself all the time; this guest never does.
 *
 * x0: the first page to be written to; x1: how many. It has to be loaded at the start of a page, and
 * is position-independent.
 *
 *     aarch64-linux-gnu-gcc -c stub.S -o stub.o
 *     aarch64-linux-gnu-objcopy -O binary stub.o stub.bin
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define SCTLR_M_C 0x5
#define TCR_39_BITS 0x100803519 /* T0SZ 25; walks cached, inner shareable; EPD1; IPS 36 bits */
#define MAIR_WRITE_BACK 0xff
#define BLOCK_OF_RAM 0x40000701 /* 1 GiB at 1 GiB: Normal, inner shareable, accessed, valid */
#define PSCI_SYSTEM_OFF 0x84000008
#define PAGE 0x1000

    .global _start
_start:
    adr     x2, table
    msr     ttbr0_el1, x2
    ldr     x2, =TCR_39_BITS
    msr     tcr_el1, x2
    mov     x2, #MAIR_WRITE_BACK
    msr     mair_el1, x2
    isb

    bl      write_pages
    dc      isw, xzr /* the first flush */
    bl      write_pages
    mrs     x2, sctlr_el1
    mov     x3, #SCTLR_M_C
    orr     x2, x2, x3
    msr     sctlr_el1, x2 /* the second flush */
    isb
    ldr     w0, =PSCI_SYSTEM_OFF
    smc     #0
    b       .

write_pages:
    mov     x2, x0
    mov     x3, x1
1:  str     x3, [x2]
    add     x2, x2, #PAGE
    subs    x3, x3, #1
    b.ne    1b
    ret
    .ltorg

    /* Stage 1's only table, of level 1. */
    .balign PAGE
table:
    .quad   0
    .quad   BLOCK_OF_RAM
    .balign PAGE
