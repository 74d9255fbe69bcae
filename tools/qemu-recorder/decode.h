/*
 * Which instructions matter to a recording: Set/Way operations, writes of VM registers, and calls
 * to the firmware.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RECORDER_DECODE_H
#define RECORDER_DECODE_H

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
    unsigned rt; /* the register whose value is written */
};

/* `code` as it lies in memory, `size` bytes of it; `bits`: of the guest, 32 or 64. */
struct instruction decode(const uint8_t *code, size_t size, unsigned bits);

#endif
