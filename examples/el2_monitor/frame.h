/*
 * Where an exception's entry keeps the guest's registers: what boot.S and C have in common.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EL2_MONITOR_FRAME_H
#define EL2_MONITOR_FRAME_H

#define STACK_BYTES 0x4000
#define FRAME_ELR 248
#define FRAME_SPSR 256
#define FRAME_ENTERED 264
#define FRAME_BYTES 272

#ifndef __ASSEMBLER__
#include <stddef.h>
#include <stdint.h>

/* The guest's general registers. Those of an AArch32 guest are x0 to x14 and, banked, x16 to x30
 * (Arm ARM DDI 0487, D1.7, "Mapping of the general-purpose registers"). */
struct frame {
    uint64_t x[31];
    uint64_t elr;
    uint64_t spsr;
    uint64_t entered; /* PMCCNTR_EL0 when the exception was taken */
};

_Static_assert(offsetof(struct frame, elr) == FRAME_ELR, "boot.S stores it there");
_Static_assert(offsetof(struct frame, spsr) == FRAME_SPSR, "boot.S stores it there");
_Static_assert(offsetof(struct frame, entered) == FRAME_ENTERED, "boot.S stores it there");
_Static_assert(sizeof(struct frame) == FRAME_BYTES, "boot.S moves the stack by it");
_Static_assert(FRAME_BYTES % 16 == 0, "the stack pointer stays aligned");

_Noreturn void enter_guest(const struct frame *frame);
void firmware_call(uint64_t arguments[4]);
#endif

#endif
