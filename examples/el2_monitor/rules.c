/*
 * The rules of Set/Way and of stage-2 aborts: see rules.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rules.h"

#define SCTLR_M ((uint64_t)1 << 0)
#define SCTLR_C ((uint64_t)1 << 2)
#define CACHES_ON (SCTLR_M | SCTLR_C)

/* Without its MMU a guest's data accesses are not cached, whatever C says. */
bool rules_caches_on(uint64_t sctlr)
{
    return (sctlr & CACHES_ON) == CACHES_ON;
}

void rules_reset(struct rules_vcpu *vcpu)
{
    *vcpu = (struct rules_vcpu){.traps_vm_registers = false, .pending = CAUSE_NONE};
}

/* A flush that is pending already cleans for both: it is done once, and the first cause is told. */
static void ask_for_flush(struct rules_vcpu *vcpu, enum flush_cause cause)
{
    if (vcpu->pending == CAUSE_NONE)
        vcpu->pending = cause;
}

bool rules_set_way(struct rules_vcpu *vcpu, bool iommu_shared)
{
    if (iommu_shared)
        return false;
    if (!vcpu->traps_vm_registers) {
        ask_for_flush(vcpu, CAUSE_SET_WAY);
        vcpu->traps_vm_registers = true;
    }
    return true;
}

void rules_vm_register_written(struct rules_vcpu *vcpu, bool were_on, bool are_on)
{
    if (!vcpu->traps_vm_registers)
        return;
    if (are_on != were_on)
        ask_for_flush(vcpu, CAUSE_CACHE_TOGGLE);
    if (are_on)
        vcpu->traps_vm_registers = false;
}

void rules_flushed(struct rules_vcpu *vcpu)
{
    vcpu->pending = CAUSE_NONE;
}

/* ---- Aborts ---- */

/* A translation fault is stale when the tables have no such fault by now: another vCPU was resolved
 * first, and whatever else is wrong with the access shows when it is tried again. A permission
 * fault is stale when the access would pass. Nothing else goes away by itself. */
enum abort_action rules_abort(const struct abort *abort, enum p2mfast_fault now)
{
    switch (abort->fault) {
    case P2MFAST_FAULT_TRANSLATION:
        return now == P2MFAST_FAULT_TRANSLATION ? ABORT_RESOLVE : ABORT_RETRY;
    case P2MFAST_FAULT_PERMISSION:
        return now == P2MFAST_FAULT_NONE ? ABORT_RETRY : ABORT_INJECT;
    default:
        return ABORT_INJECT;
    }
}

enum injection rules_injection(const struct abort *abort)
{
    if (abort->fault == P2MFAST_FAULT_EXTERNAL)
        return INJECT_SERROR;
    return abort->fetch ? INJECT_PREFETCH_ABORT : INJECT_DATA_ABORT;
}
