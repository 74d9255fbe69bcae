/*
 * A guest for the monitor of examples/el2_monitor that turns its second vCPU on twice at once, each
 * time with another context; as often as x1 says. The vCPU writes its context down, and turns itself
 * off when it may.
 *
 * x0: where to write, for each time: what CPU_ON returned, first and second, and the context that
 * the vCPU got.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define SYSTEM_OFF 0x84000008
#define CPU_OFF 0x84000002
#define CPU_ON 0xc4000003
#define AFFINITY_INFO 0xc4000004
#define OFF 1
#define FIRST 0x1111
#define SECOND 0x2222

    .macro turn_on context
    ldr     w0, =CPU_ON
    mov     x1, #1
    adr     x2, second_vcpu
    mov     x3, #\context
    smc     #0
    .endm

    .global _start
_start:
    mov     x20, x0
    mov     x21, x1
    adr     x22, context
next:
    stp     xzr, xzr, [x22]
    turn_on FIRST
    mov     x23, x0
    turn_on SECOND
    stp     x23, x0, [x20], #16
1:  yield
    ldr     x0, [x22]
    cbz     x0, 1b
    str     x0, [x20], #8
    str     x22, [x22, #8] /* it may go */
2:  ldr     w0, =AFFINITY_INFO
    mov     x1, #1
    mov     x2, #0
    smc     #0
    cmp     x0, #OFF
    b.ne    2b
    sub     x21, x21, #1
    cbnz    x21, next
    ldr     w0, =SYSTEM_OFF
    smc     #0
    b       .

second_vcpu:
    adr     x1, context
    str     x0, [x1]
3:  yield
    ldr     x0, [x1, #8]
    cbz     x0, 3b
    ldr     w0, =CPU_OFF
    smc     #0
    b       .
    .ltorg

    .balign 16
context:
    .quad   0
    .quad   0 /* the second vCPU may go */
