/*
 * What the guest traps on, and what is done: register accesses and aborts are decoded by
 * syndrome.c, judged by rules.c, and carried out here.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cpu.h"
#include "inject.h"
#include "monitor.h"
#include "p2m.h"

#define X_ZERO 31
#define PAR_FAILED 1
#define PAR_PA (((uint64_t)1 << 52) - ((uint64_t)1 << PAGE_SHIFT))
#define NO_SUCH_CALL (-(uint64_t)1) /* Arm DEN 0028 */

/* ---- Exceptions for the guest ---- */

static void inject(struct vcpu *vcpu, struct frame *frame, const struct exception *exception)
{
    bool aarch32 = parameters()->guest_bits == 32;
    struct guest_state guest = {
        .pc = frame->elr,
        .pstate = frame->spsr,
        .sctlr = READ_REGISTER(sctlr_el1),
        .vbar = READ_REGISTER(vbar_el1),
        .tcr = READ_REGISTER(tcr_el1),
        .esr = READ_REGISTER(esr_el1),
        .far = READ_REGISTER(far_el1),
    };

    vcpu->report->injected++;
    if (!aarch32) {
        inject_aarch64(&guest, exception);
        WRITE_REGISTER(elr_el1, guest.elr);
        WRITE_REGISTER(spsr_el1, guest.spsr);
    } else {
        guest.ifsr = READ_REGISTER(ifsr32_el2);
        inject_aarch32(&guest, exception);
        WRITE_REGISTER(ifsr32_el2, guest.ifsr);
        if (exception->kind == INJECT_UNDEFINED) {
            frame->x[X_OF_LR_UND] = guest.elr;
            WRITE_REGISTER(spsr_und, guest.spsr);
        } else {
            frame->x[X_OF_LR_ABT] = guest.elr;
            WRITE_REGISTER(spsr_abt, guest.spsr);
        }
    }
    WRITE_REGISTER(esr_el1, guest.esr);
    WRITE_REGISTER(far_el1, guest.far);
    frame->elr = guest.pc;
    frame->spsr = guest.pstate;
}

static void inject_undefined(struct vcpu *vcpu, struct frame *frame)
{
    inject(vcpu, frame, &(struct exception){.kind = INJECT_UNDEFINED});
}

/* ---- Aborts ---- */

/* HPFAR_EL2 says nothing of a permission fault, unless it was on a walk of stage 1 (D19.2,
 * HPFAR_EL2). Then stage 1 is asked again where the access led; false if it does not say any more,
 * by its tables' change or since they were armed: the guest shall try again. */
static bool find_gpa(struct abort *abort)
{
    uint64_t of_guest = READ_REGISTER(par_el1), par;

    if (abort->fault != P2MFAST_FAULT_PERMISSION || abort->stage1_walk)
        return true;
    __asm__ volatile("at s1e1r, %0" ::"r"(abort->far) : "memory");
    isb();
    par = READ_REGISTER(par_el1);
    WRITE_REGISTER(par_el1, of_guest);
    abort->gpa = (par & PAR_PA) | (abort->far & (((uint64_t)1 << PAGE_SHIFT) - 1));
    return !(par & PAR_FAILED);
}

/* A translation fault is resolved at once: the engine notices by itself if another vCPU has done so
 * meanwhile. Only for other faults are the tables asked. */
static enum p2mfast_fault fault_by_now(const struct abort *abort)
{
    p2mfast_translation_t now;

    if (abort->fault == P2MFAST_FAULT_TRANSLATION)
        return abort->fault;
    p2mfast_translate(stage2(), abort->gpa, abort->access, &now);
    return now.fault;
}

static bool resolve(const struct abort *abort)
{
    const struct parameters *told = parameters();
    unsigned depth = told->resolve == RESOLVE_PATH ? P2MFAST_DEPTH_PATH : P2MFAST_DEPTH_LEVEL;

    return p2mfast_resolve_translation_fault(stage2(), abort->gpa >> PAGE_SHIFT, depth,
                                             told->fault_around) == 1;
}

static void handle_abort(struct vcpu *vcpu, struct frame *frame, uint64_t esr)
{
    struct abort abort = decode_abort(esr, READ_REGISTER(far_el2), READ_REGISTER(hpfar_el2),
                                      parameters()->guest_bits);
    enum abort_action action;

    if (!find_gpa(&abort))
        return;
    action = rules_abort(&abort, fault_by_now(&abort));
    if (action == ABORT_RETRY)
        return;
    if (action == ABORT_RESOLVE && resolve(&abort)) {
        report_fault(vcpu, abort.gpa >> PAGE_SHIFT, (unsigned)abort.level,
                     (abort.fetch ? FAULT_FETCH : 0) |
                         (abort.access == P2MFAST_WRITE ? FAULT_WRITE : 0) |
                         (abort.stage1_walk ? FAULT_STAGE1_WALK : 0));
        vcpu->report->resolved++;
        vcpu->report->resolve_cycles += cycles() - frame->entered;
        return;
    }
    if (rules_injection(&abort) == INJECT_SERROR) /* a walk of the monitor's own tables failed */
        monitor_panic(esr, frame->elr, abort.gpa);
    inject(vcpu, frame, &(struct exception){rules_injection(&abort), abort.far_valid, abort.far});
}

/* ---- System registers ---- */

static uint64_t register_value(const struct frame *frame, unsigned number)
{
    return number == X_ZERO ? 0 : frame->x[number];
}

static void write_vm_register(struct vcpu *vcpu, const struct frame *frame,
                              const struct register_access *access)
{
    uint64_t value =
        written_value(access, vm_register_read(access->name), register_value(frame, access->rt),
                      register_value(frame, access->rt2));
    bool were_on = rules_caches_on(READ_REGISTER(sctlr_el1)), are_on;

    vm_register_write(access->name, value);
    are_on = rules_caches_on(READ_REGISTER(sctlr_el1));
    rules_vm_register_written(&vcpu->rules, were_on, are_on);
    vcpu->came_up = are_on && !were_on && !vcpu->report->caches_on_ticks;
    vcpu->report->vm_registers++;
    vcpu->report->vm_register_cycles += cycles() - frame->entered;
}

static void handle_register_access(struct vcpu *vcpu, struct frame *frame, uint64_t esr)
{
    struct register_access access = decode_register_access(esr);
    bool trapped = vcpu->rules.traps_vm_registers;

    if (access.kind == ACCESS_SET_WAY) {
        vcpu->report->set_ways++;
        if (!rules_set_way(&vcpu->rules, parameters()->iommu_shared)) {
            inject_undefined(vcpu, frame);
            return;
        }
        vcpu->report->set_way_cycles += cycles() - frame->entered;
    } else if (access.kind == ACCESS_VM_REGISTER && !access.read) {
        write_vm_register(vcpu, frame, &access);
    } else {
        inject_undefined(vcpu, frame);
        return;
    }
    if (vcpu->rules.traps_vm_registers != trapped)
        trap_vm_registers(vcpu);
    skip_instruction(esr, &frame->elr, &frame->spsr);
}

/* ---- All ---- */

void handle_trap(struct frame *frame)
{
    struct vcpu *vcpu = this_vcpu();
    uint64_t esr = READ_REGISTER(esr_el2);

    switch (exception_class(esr)) {
    case CLASS_FETCH_LOWER:
    case CLASS_DATA_LOWER:
        handle_abort(vcpu, frame, esr);
        break;
    case CLASS_CP15:
    case CLASS_CP15_64:
    case CLASS_SYSTEM:
        if (condition_holds(esr, frame->spsr))
            handle_register_access(vcpu, frame, esr);
        else
            skip_instruction(esr, &frame->elr, &frame->spsr);
        break;
    case CLASS_SMC32:
    case CLASS_SMC64:
        if (condition_holds(esr, frame->spsr))
            handle_firmware_call(vcpu, frame);
        skip_instruction(esr, &frame->elr, &frame->spsr);
        break;
    case CLASS_HVC32:
    case CLASS_HVC64: /* ELR_EL2 is behind it already */
        frame->x[0] = NO_SUCH_CALL;
        break;
    default:
        inject_undefined(vcpu, frame);
    }
    if (vcpu->rules.pending != CAUSE_NONE) {
        flush(vcpu);
        rules_flushed(&vcpu->rules);
    }
    if (vcpu->came_up) {
        vcpu->came_up = false;
        vcpu->report->caches_on_ticks = report_ticks();
        vcpu->report->caches_on_cycles = report_cycles();
    }
    vcpu->report->monitor_cycles += cycles() - frame->entered;
}
