/*
 * What the recorder is held against: programs of a few instructions, for EL1 of a Cortex-A53,
 * whose touched pages and Set/Way operations can be told by reading them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define DATA            0x40300000
#define TABLE           0x40201000
#define SPREAD          0x48000000
#define SPREAD_STEP     0x400000    /* pages that share an entry of the recorder's TLB */
#define PAGE            0x1000
#define SHARED_PAGES    16
#define COUNTER         (DATA + 0x40000)
#define BATCHES         200
#define SCTLR_OFF       0x30d00800
#define SCTLR_ON        0x30d00805  /* M and C */
#define MAIR            0xff        /* attribute 0: Normal, Write-Back */
#define TCR             0x100803519 /* 39 bits of VA below, none above; tables Write-Back */
#define CPU_ON          0xc4000003  /* PSCI */
#define SYSTEM_OFF      0x84000008

    .macro  constant register, value
    movz    \register, #((\value) & 0xffff)
    movk    \register, #((\value) >> 16 & 0xffff), lsl #16
    movk    \register, #((\value) >> 32 & 0xffff), lsl #32
    .endm

    .text
    .global _start
_start:
    b       single
    b       shared

/* One vCPU: test_every_kind_of_access_and_event tells what is to be seen of it. */
single:
    constant x1, DATA
    str     x0, [x1]
    ldr     x2, [x1, #1 * PAGE]
    mov     x4, #3
1:  dc      isw, x3
    subs    x4, x4, #1
    b.ne    1b
    dc      csw, x3
    dc      cisw, x3
    str     x0, [x1, #2 * PAGE]
    bl      caches_on
    add     x5, x1, #3 * PAGE
    add     x5, x5, #PAGE - 4
    str     x0, [x5]            /* half of it on the next page */
    add     x5, x1, #5 * PAGE
    ldxr    x2, [x5]
    stxr    w3, x0, [x5]
    bl      elsewhere
    constant x5, (DATA + 6 * PAGE + 0x40000000) /* mapped twice */
    str     x0, [x5]
    msr     contextidr_el1, x0  /* not trapped now */
    add     x5, x1, #7 * PAGE
    dc      zva, x5
    dc      cisw, x3
    dc      cisw, x3
    msr     contextidr_el1, x0  /* trapped, and the last that is */
    msr     contextidr_el1, x0
    ldr     x2, [x1, #2 * PAGE]
    constant x5, SCTLR_OFF
    msr     sctlr_el1, x5
    isb
    ldr     x2, [x1]
    b       off

/* Two vCPUs: one has batches of Set/Way operations, the other touches the same pages again and
 * again, and counts its rounds. */
shared:
    constant x1, COUNTER
    bl      caches_on
    constant x0, CPU_ON
    mov     x1, #1
    adr     x2, touching
    mov     x3, #0
    hvc     #0
    constant x1, COUNTER
    mov     x4, #BATCHES
1:  dc      cisw, x3
    msr     contextidr_el1, x0
    ldr     x5, [x1]
    add     x5, x5, #2          /* one whole round after this moment */
    constant x6, (SPREAD + SHARED_PAGES * SPREAD_STEP)
    add     x7, x6, #SPREAD_STEP
    str     x0, [x6]
    tbz     x4, #0, 2f          /* every second time */
    str     x0, [x7]
    str     x0, [x6]            /* out of the recorder's TLB, in again, stale at the next batch */
2:  ldr     x6, [x1]
    cmp     x6, x5
    b.lo    2b
    subs    x4, x4, #1
    b.ne    1b
    b       off

touching:
    constant x1, COUNTER
    mov     x7, #0
1:  constant x2, DATA
    constant x3, SPREAD
    mov     x4, #SHARED_PAGES
2:  str     x7, [x2]
    add     x2, x2, #PAGE
    str     x7, [x3]
    add     x3, x3, #SPREAD_STEP
    subs    x4, x4, #1
    b.ne    2b
    add     x7, x7, #1
    str     x7, [x1]
    b       1b

caches_on:
    constant x5, TABLE
    msr     ttbr0_el1, x5
    constant x5, MAIR
    msr     mair_el1, x5
    constant x5, TCR
    msr     tcr_el1, x5
    isb
    constant x5, SCTLR_ON
    msr     sctlr_el1, x5
    isb
    ret

off:
    constant x0, SYSTEM_OFF
    hvc     #0

/* Level 1: RAM at its own address, and 1 GiB above it again. */
    .org    TABLE - 0x40200000
    .quad   0
    .quad   0x40000705          /* block, Inner Shareable, accessed */
    .quad   0x40000705

    .org    0x2000
elsewhere:
    ret
