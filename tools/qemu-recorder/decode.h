/*
 * Which instructions matter to a recording: Set/Way operations, writes of VM registers, and calls
 * to the firmware.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RECORDER_DECODE_H
#define RECORDER_DECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum instruction_kind {
    INSTRUCTION_OTHER,
    INSTRUCTION_ISW,  /* invalidate by Set/Way */
    INSTRUCTION_CSW,  /* clean */
    INSTRUCTION_CISW, /* clean and invalidate */
    INSTRUCTION_SCTLR,
    INSTRUCTION_VM_REG, /* another register that HCR_EL2.TVM traps the writes of */
    INSTRUCTION_CALL,   /* HVC or SMC: PSCI may take the vCPU off */
    INSTRUCTION_ZERO,   /* DC ZVA: its store is not shown to plugins */
};

struct instruction {
    enum instruction_kind kind;
    unsigned rt;        /* the register whose value is written */
    unsigned condition; /* under which it is executed; CONDITION_ALWAYS in AArch64 */
};

#define CONDITION_ALWAYS 14u

/* `code` as it lies in memory, `size` bytes of it; `bits`: of the guest, 32 or 64. `it` is for one
 * block, from its first instruction to its last: 0 before it, then what an IT of T32 leaves. */
struct instruction decode(const uint8_t *code, size_t size, unsigned bits, unsigned *it);

/* Whether a condition holds with these flags: NZCV in bits 31 to 28, as in the PSR. */
bool condition_holds(unsigned condition, uint32_t flags);

#endif
