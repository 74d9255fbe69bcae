/*
 * The rules of Set/Way and of stage-2 aborts: what the monitor does when the guest traps. The same
 * as p2mfast/hypervisor/vcpu.py and aborts.py, in C; tests/test_monitor_rules.py holds one against
 * the other.
 *
 * Set/Way operations come in batches, of one for each line of a cache, and cannot be done for a
 * guest: they name lines of one core's cache, not addresses. So the first one of a batch asks for a
 * flush of all that the guest may have dirtied, and the rest are ignored. The end of a batch is not
 * to be seen; but a guest that cleans its caches by Set/Way turns them on or off then, and both are
 * writes of SCTLR_EL1: from the first operation on VM registers trap (HCR_EL2.TVM), a change of the
 * caches asks for another flush, and a write that finds them on ends the batch.
 *
 * Pure, as syndrome.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef EL2_MONITOR_RULES_H
#define EL2_MONITOR_RULES_H

#include <stdbool.h>
#include <stdint.h>
#include "interface.h"
#include "syndrome.h"

struct rules_vcpu {
    bool traps_vm_registers;  /* HCR_EL2.TVM */
    enum flush_cause pending; /* why to flush before the guest goes on; CAUSE_NONE: do not */
};

/* SCTLR_EL1 of the guest: M and C are both set. */
bool rules_caches_on(uint64_t sctlr);

/* Turned off and on again: nothing is trapped, nothing pending. */
void rules_reset(struct rules_vcpu *vcpu);

/* A trapped DC ISW, CSW or CISW. False: the guest gets an undefined instruction instead, since
 * nothing can be cleaned lazily for devices that walk the same tables. */
bool rules_set_way(struct rules_vcpu *vcpu, bool iommu_shared);

/* A trapped write of a VM register was done. Whether the caches were on is told by the caller, who
 * reads SCTLR_EL1 before: a copy here would miss the writes that do not trap. */
void rules_vm_register_written(struct rules_vcpu *vcpu, bool were_on, bool are_on);

/* The pending flush is done. */
void rules_flushed(struct rules_vcpu *vcpu);

/* ---- Aborts ---- */

enum abort_action {
    ABORT_RETRY,   /* it was resolved in between: let the guest try again */
    ABORT_RESOLVE, /* resolve the page; inject if it cannot be */
    ABORT_INJECT,  /* the guest gets rules_injection() */
};

/* `now`: what the tables say of the same access by now (p2mfast_translate). */
enum abort_action rules_abort(const struct abort *abort, enum p2mfast_fault now);

enum injection {
    INJECT_UNDEFINED,
    INJECT_DATA_ABORT,
    INJECT_PREFETCH_ABORT,
    INJECT_SERROR, /* not by inject.h; of a walk of stage 2's own tables, it is the monitor's fault
                    */
};

enum injection rules_injection(const struct abort *abort);

#endif
