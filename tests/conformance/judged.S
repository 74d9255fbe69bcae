/*
 * What the judge of flushes (tools/qemu-recorder/oracle.c) is held against: a monitor at EL2 that
 * does what a script says, for each vCPU its own, and a guest at EL1 of a few instructions.
 *
 * A script is a row of orders of three words: number, a, b. The numbers are read from here by
 * judged.py.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define ORDER_END 0       /* the power goes */
#define ORDER_WRITE 1     /* the guest writes b to a */
#define ORDER_READ 2      /* it reads a */
#define ORDER_MARK_STARTS 3
#define ORDER_MARK_BEGINS 4
#define ORDER_MARK_COLLECTED 5
#define ORDER_MARK_CLEANED 6
#define ORDER_POKE 7      /* the monitor writes b to a */
#define ORDER_CLEAN 8     /* it cleans a lines */
#define ORDER_INVALIDATE 9
#define ORDER_WAIT 10     /* until b is at a */
#define ORDER_CPU_ON 11   /* start vCPU 1 */
#define ORDER_HALT 12
#define ORDER_TRAP 13     /* the guest's second instruction of four traps and is tried again */
#define ORDER_SCTLR 14    /* its write of b to SCTLR_EL1 traps, and is left undone */
#define SCRIPTS 0x5f800000
#define SCRIPT_BYTES_LOG 16

#define MARK_STARTS 0x60
#define MARK_BEGINS 0x61
#define MARK_COLLECTED 0x62
#define MARK_CLEANED 0x63

#define HCR_GUEST (1 << 31)   /* EL1 is AArch64 */
#define HCR_TID3 (1 << 18)    /* trap reads of ID registers */
#define HCR_TVM (1 << 26)     /* trap writes of VM registers */
#define CLASS_HVC 0x16
#define EL1H_MASKED 0x3c5
#define CPU_ON 0xc4000003     /* PSCI */
#define SYSTEM_OFF 0x84000008

/* x20: the next order. x0 and x1: its a and b. x21: skip what traps. The guest changes x1 and x2. */

    .macro  constant register, value
    movz    \register, #((\value) & 0xffff)
    movk    \register, #((\value) >> 16 & 0xffff), lsl #16
    .endm

    .macro  order number, label
    cmp     x3, #\number
    b.eq    \label
    .endm

    .macro  enter offset
    constant x4, HCR_GUEST
    msr     hcr_el2, x4
    constant x4, (GUEST + \offset)
    b       enter_guest
    .endm

    .text
    .global _start
_start:
    mov     x0, #0
start:
    adr     x1, vectors
    msr     vbar_el2, x1
    constant x20, SCRIPTS
    add     x20, x20, x0, lsl #SCRIPT_BYTES_LOG
next:
    ldp     x3, x0, [x20], #16
    ldr     x1, [x20], #8
    order   ORDER_WRITE, write
    order   ORDER_READ, read
    order   ORDER_MARK_STARTS, mark_starts
    order   ORDER_MARK_BEGINS, mark_begins
    order   ORDER_MARK_COLLECTED, mark_collected
    order   ORDER_MARK_CLEANED, mark_cleaned
    order   ORDER_POKE, poke
    order   ORDER_CLEAN, clean
    order   ORDER_INVALIDATE, invalidate
    order   ORDER_WAIT, wait
    order   ORDER_CPU_ON, cpu_on
    order   ORDER_HALT, halt
    order   ORDER_TRAP, trap
    order   ORDER_SCTLR, sctlr
    constant x0, SYSTEM_OFF
    smc     #0
halt:
    wfi
    b       halt

write:
    enter   0x00
read:
    enter   0x40
trap:
    mov     x21, #0
    constant x4, (HCR_GUEST | HCR_TID3)
    msr     hcr_el2, x4
    constant x4, (GUEST + 0x80)
    b       enter_guest
sctlr:
    mov     x21, #1
    constant x4, (HCR_GUEST | HCR_TVM)
    msr     hcr_el2, x4
    constant x4, (GUEST + 0xc0)
enter_guest:
    msr     elr_el2, x4
    mov     x4, #EL1H_MASKED
    msr     spsr_el2, x4
    eret

mark_starts:
    hint    #MARK_STARTS
    b       next
mark_begins:
    hint    #MARK_BEGINS
    b       next
mark_collected:
    hint    #MARK_COLLECTED
    b       next
mark_cleaned:
    hint    #MARK_CLEANED
    b       next
poke:
    str     x1, [x0]
    dmb     sy
    b       next
clean:
    cbz     x0, next
    dc      civac, x20
    sub     x0, x0, #1
    b       clean
invalidate:
    tlbi    vmalls12e1is
    dsb     sy
    isb
    b       next
wait:
    ldr     x3, [x0]
    cmp     x3, x1
    b.ne    wait
    dmb     sy
    b       next
cpu_on:
    constant x0, CPU_ON
    mov     x1, #1
    adr     x2, start
    mov     x3, #1
    smc     #0
    b       next

trapped:
    mrs     x3, esr_el2
    lsr     x3, x3, #26
    cmp     x3, #CLASS_HVC
    b.eq    next
    cbnz    x21, 1f
    constant x3, HCR_GUEST
    msr     hcr_el2, x3
    eret
1:  mrs     x3, elr_el2
    add     x3, x3, #4
    msr     elr_el2, x3
    mov     x1, #0  /* what the guest wrote is to be looked at before */
    eret

/* Only a lower level's synchronous exceptions are expected (Arm ARM DDI 0487, D1.3). */
    .balign 0x800
vectors:
    .rept   8
    b       halt
    .balign 0x80
    .endr
    b       trapped

    .section .guest, "ax"
    str     x1, [x0]
    hvc     #0
    .balign 0x40
    ldr     x1, [x0]
    hvc     #0
    .balign 0x40
    nop
    mrs     x2, id_aa64isar0_el1
    nop
    hvc     #0
    .balign 0x40
    msr     sctlr_el1, x1
    hvc     #0
