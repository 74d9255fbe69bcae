/*
 * The registers that HCR_EL2.TVM traps the writes of. Trapped writes are made here, on the
 * hardware's own registers: nothing is kept besides.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cpu.h"
#include "monitor.h"

#define EACH_VM_REGISTER(X)                                                                        \
    X(SCTLR_EL1, sctlr_el1)                                                                        \
    X(TTBR0_EL1, ttbr0_el1)                                                                        \
    X(TTBR1_EL1, ttbr1_el1)                                                                        \
    X(TCR_EL1, tcr_el1)                                                                            \
    X(ESR_EL1, esr_el1)                                                                            \
    X(FAR_EL1, far_el1)                                                                            \
    X(AFSR0_EL1, afsr0_el1)                                                                        \
    X(AFSR1_EL1, afsr1_el1)                                                                        \
    X(MAIR_EL1, mair_el1)                                                                          \
    X(AMAIR_EL1, amair_el1)                                                                        \
    X(CONTEXTIDR_EL1, contextidr_el1)                                                              \
    X(DACR32_EL2, dacr32_el2)                                                                      \
    X(IFSR32_EL2, ifsr32_el2)

uint64_t vm_register_read(enum vm_register name)
{
    switch (name) {
#define READ_CASE(NAME, name)                                                                      \
    case VM_##NAME:                                                                                \
        return READ_REGISTER(name);
        EACH_VM_REGISTER(READ_CASE)
    default:
        return 0;
    }
}

void vm_register_write(enum vm_register name, uint64_t value)
{
    switch (name) {
#define WRITE_CASE(NAME, name)                                                                     \
    case VM_##NAME:                                                                                \
        WRITE_REGISTER(name, value);                                                               \
        break;
        EACH_VM_REGISTER(WRITE_CASE)
    default:
        break;
    }
    isb();
}
