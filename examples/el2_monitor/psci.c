/*
 * Calls of the guest to the firmware: PSCI (Arm DEN 0022), whose conduit is SMC here.
 *
 * What is known to be harmless is passed on; the rest is refused, as is what PSCI may have one day:
 * a call that tells the firmware where to go on (CPU_ON, and from a deeper sleep CPU_SUSPEND,
 * CPU_DEFAULT_SUSPEND and SYSTEM_SUSPEND) has it go on there at EL2. So a vCPU that is turned on
 * comes by the monitor, and sleep is never deeper than WFI.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cpu.h"
#include "lock.h"
#include "monitor.h"

#define FUNCTION_64_BIT 0x40000000u

/* In the 32-bit form; those that have another one are the same with FUNCTION_64_BIT. */
#define PSCI_VERSION 0x84000000
#define CPU_SUSPEND 0x84000001
#define CPU_OFF 0x84000002
#define CPU_ON 0x84000003
#define AFFINITY_INFO 0x84000004
#define MIGRATE_INFO_TYPE 0x84000006
#define SYSTEM_OFF 0x84000008
#define SYSTEM_RESET 0x84000009
#define PSCI_FEATURES 0x8400000a

#define SUCCESS 0
#define NOT_SUPPORTED (-(uint64_t)1)
#define INVALID_PARAMETERS (-(uint64_t)2)
#define ON_PENDING (-(uint64_t)5)

#define AFFINITY_MASK 0xff00ffffff
#define ARGUMENTS 4

void secondary_start(void); /* boot.S */

/* One CPU_ON at a time writes the target's struct vcpu, which says how to enter the guest. */
static struct lock starting;

static uint64_t call(uint64_t function, uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t arguments[ARGUMENTS] = {function, a, b, c};

    firmware_call(arguments);
    return arguments[0];
}

/* The machine numbers its first eight cores one after the other in the lowest affinity. What a vCPU
 * is to start with stays as it is until it has read it, whoever else wants to turn it on. */
static uint64_t cpu_on(uint64_t target, uint64_t entry, uint64_t context)
{
    uint64_t index = target & AFFINITY_MASK, result = ON_PENDING;
    struct vcpu *vcpu;

    if (index >= parameters()->vcpus)
        return INVALID_PARAMETERS;
    vcpu = &vcpus[index];
    lock_take(&starting);
    if (!__atomic_load_n(&vcpu->starting, __ATOMIC_ACQUIRE)) {
        vcpu->entry = entry;
        vcpu->context = context;
        vcpu->on_ticks = report_ticks();
        vcpu->on_cycles = report_cycles();
        vcpu->starting = true;
        wait_for_maintenance(); /* before the other core is there to look */
        result = call(CPU_ON | FUNCTION_64_BIT, target, (uint64_t)secondary_start, index);
        if (result != SUCCESS)
            vcpu->starting = false;
    }
    lock_give(&starting);
    return result;
}

_Noreturn void power_off(void)
{
    for (;;)
        call(SYSTEM_OFF, 0, 0, 0);
}

static void narrow(uint64_t *arguments)
{
    for (unsigned i = 0; i < ARGUMENTS; i++)
        arguments[i] = (uint32_t)arguments[i];
}

static bool is_passed_on(uint32_t function)
{
    switch (function) {
    case PSCI_VERSION:
    case CPU_OFF:
    case AFFINITY_INFO:
    case AFFINITY_INFO | FUNCTION_64_BIT:
    case MIGRATE_INFO_TYPE:
    case SYSTEM_OFF:
    case SYSTEM_RESET:
        return true;
    default:
        return false;
    }
}

static bool is_known(uint32_t function)
{
    switch (function) {
    case CPU_SUSPEND:
    case CPU_SUSPEND | FUNCTION_64_BIT:
    case CPU_ON:
    case CPU_ON | FUNCTION_64_BIT:
    case PSCI_FEATURES:
        return true;
    default:
        return is_passed_on(function);
    }
}

static uint64_t handle(struct vcpu *vcpu, uint32_t function, const uint64_t *arguments)
{
    switch (function) {
    case CPU_ON:
    case CPU_ON | FUNCTION_64_BIT:
        return cpu_on(arguments[1], arguments[2], arguments[3]);
    case CPU_SUSPEND:
    case CPU_SUSPEND | FUNCTION_64_BIT:
        /* Whatever depth it asks for: PSCI lets a deeper one end like this. */
        wait_for_interrupt();
        return SUCCESS;
    case PSCI_FEATURES:
        return is_known((uint32_t)arguments[1]) ? SUCCESS : NOT_SUPPORTED;
    case CPU_OFF:
        vcpu->report->resets++;
        break;
    case SYSTEM_OFF:
    case SYSTEM_RESET:
        report_end(function == SYSTEM_OFF ? STATE_POWERED_OFF : STATE_RESET);
        break;
    }
    return is_passed_on(function) ? call(function, arguments[1], arguments[2], arguments[3])
                                  : NOT_SUPPORTED;
}

/* A function's number is all in W0: what is above says nothing. AArch32 has no calls of the 64-bit
 * form (Arm DEN 0028). */
void handle_firmware_call(struct vcpu *vcpu, struct frame *frame)
{
    uint32_t function = (uint32_t)frame->x[0];
    bool aarch32 = parameters()->guest_bits == 32;

    vcpu->report->firmware_calls++;
    if (!(function & FUNCTION_64_BIT))
        narrow(frame->x);
    frame->x[0] =
        aarch32 && function & FUNCTION_64_BIT ? NOT_SUPPORTED : handle(vcpu, function, frame->x);
}
