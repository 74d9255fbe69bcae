/*
 * Calls of the guest to the firmware: PSCI (Arm DEN 0022), whose conduit is SMC here.
 *
 * They are passed on, with two exceptions: a vCPU that is turned on has to come by the monitor, and
 * what was measured is summed up before the power goes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cpu.h"
#include "lock.h"
#include "monitor.h"

#define FUNCTION_64_BIT 0x40000000
#define FUNCTION_MASK 0xbfffffe0 /* of the 32 that PSCI has, in either form */
#define FUNCTION_PSCI 0x84000000

#define CPU_OFF 0x84000002
#define CPU_ON 0x84000003
#define SYSTEM_OFF 0x84000008
#define SYSTEM_RESET 0x84000009

#define NOT_SUPPORTED ((uint64_t) - 1)
#define INVALID_PARAMETERS ((uint64_t) - 2)

#define AFFINITY_MASK 0xff00ffffff
#define ARGUMENTS 4

void secondary_start(void); /* boot.S */

/* The target's struct vcpu says how to enter the guest: one CPU_ON at a time writes it. */
static struct lock starting;

static uint64_t call(uint64_t function, uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t arguments[ARGUMENTS] = {function, a, b, c};

    firmware_call(arguments);
    return arguments[0];
}

/* The machine numbers its first eight cores one after the other in the lowest affinity. */
static uint64_t cpu_on(uint64_t target, uint64_t entry, uint64_t context)
{
    uint64_t index = target & AFFINITY_MASK;
    struct vcpu *vcpu;
    uint64_t on_ticks = report_ticks(), on_cycles = report_cycles(), result;

    if (index >= parameters()->vcpus)
        return INVALID_PARAMETERS;
    vcpu = &vcpus[index];
    lock_take(&starting);
    vcpu->entry = entry;
    vcpu->context = context;
    wait_for_maintenance(); /* it reads them with its caches off, at first */
    result = call(CPU_ON | FUNCTION_64_BIT, target, (uint64_t)secondary_start, index);
    if (result == 0) {
        vcpu->report->on_ticks = on_ticks;
        vcpu->report->on_cycles = on_cycles;
        vcpu->report->caches_on_ticks = vcpu->report->caches_on_cycles = 0;
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

void handle_firmware_call(struct vcpu *vcpu, struct frame *frame)
{
    uint64_t *arguments = frame->x;
    uint64_t function;

    vcpu->report->firmware_calls++;
    if (parameters()->guest_bits == 32 || !(arguments[0] & FUNCTION_64_BIT))
        narrow(arguments);
    function = arguments[0] & ~(uint64_t)FUNCTION_64_BIT;
    if ((function & FUNCTION_MASK) != FUNCTION_PSCI) {
        arguments[0] = NOT_SUPPORTED;
        return;
    }
    switch (function) {
    case CPU_ON:
        arguments[0] = cpu_on(arguments[1], arguments[2], arguments[3]);
        return;
    case CPU_OFF:
        vcpu->report->resets++;
        break;
    case SYSTEM_OFF:
    case SYSTEM_RESET:
        report_end(function == SYSTEM_OFF ? STATE_POWERED_OFF : STATE_RESET);
        break;
    }
    firmware_call(arguments);
}
