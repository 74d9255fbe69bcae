/*
 * The start of each vCPU, what EL2 traps, and the end.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cpu.h"
#include "monitor.h"

/* HCR_EL2 (Arm ARM DDI 0487, D19.2): */
#define HCR_VM ((uint64_t)1 << 0)   /* stage 2 is on */
#define HCR_TSC ((uint64_t)1 << 19) /* trap SMC: PSCI's conduit */
#define HCR_TSW ((uint64_t)1 << 22) /* trap Set/Way */
#define HCR_TVM ((uint64_t)1 << 26) /* trap writes of the VM registers */
#define HCR_TDZ ((uint64_t)1 << 28) /* trap DC ZVA, and tell the guest that there is none */
#define HCR_RW ((uint64_t)1 << 31)  /* EL1 is AArch64 */
#define HCR_APK ((uint64_t)1 << 40) /* pointer authentication is the guest's */
#define HCR_API ((uint64_t)1 << 41)

/* CPTR_EL2: floating point and vectors are the guest's. TZ and TSM are RES1 on cores that do not
 * have the extensions. */
#define CPTR_RES1 0x32ff
#define CPTR_TZ (1 << 8)
#define CPTR_TSM (1 << 12)
#define VECTOR_LENGTH_MOST 0xf /* ZCR_EL2, SMCR_EL2 */
#define SMCR_FA64 ((uint64_t)1 << 31)

#define CNTHCTL_EL1PCTEN 1 /* so are the physical counter */
#define CNTHCTL_EL1PCEN 2  /* and timer */

/* Registers of EL1 as a core has them at reset: MMU and caches off, little-endian. */
#define SCTLR_EL1_RESET 0x30d00800
#define SCTLR_EL1_RESET_AARCH32 0xc50838

/* PSTATE at the entry: interrupts masked, EL1h, or Supervisor mode; the T bit of a Thumb entry. */
#define SPSR_EL1H_MASKED 0x3c5
#define SPSR_SVC_MASKED 0x1d3
#define SPSR_THUMB 0x20

#define PMCR_ENABLE 1
#define PMCR_CYCLES_64 0x40
#define PMCR_N_SHIFT 11 /* event counters: all of them the guest's, in MDCR_EL2.HPMN */
#define PMCR_N_MASK 0x1f
#define PMCNTEN_CYCLES ((uint64_t)1 << 31)
#define PMCCFILTR_EL2_TOO ((uint64_t)1 << 27)

#define PFR0_GIC_SHIFT 24
#define PFR0_SVE_SHIFT 32
#define PFR1_SME_SHIFT 24
#define ICC_SRE_ALL 0xf /* the GICv3's CPU interface by system registers, EL1's too */

struct vcpu vcpus[MAX_VCPUS];
_Alignas(16) char stacks[MAX_VCPUS * STACK_BYTES]; /* boot.S */

const struct parameters *parameters(void)
{
    return (const struct parameters *)(monitor_base + PARAMETERS_OFFSET);
}

struct vcpu *this_vcpu(void)
{
    return (struct vcpu *)READ_REGISTER(tpidr_el2);
}

void trap_vm_registers(const struct vcpu *vcpu)
{
    const struct parameters *told = parameters();
    uint64_t hcr = HCR_VM | HCR_TSC | HCR_TSW | HCR_APK | HCR_API;

    if (told->guest_bits == 64)
        hcr |= HCR_RW;
    if (told->options & OPTION_TRAP_ZVA)
        hcr |= HCR_TDZ;
    if (vcpu->rules.traps_vm_registers)
        hcr |= HCR_TVM;
    WRITE_REGISTER(hcr_el2, hcr);
    isb();
}

static void count_cycles(void)
{
    if (!(parameters()->options & OPTION_COUNT_CYCLES))
        return;
    WRITE_REGISTER(pmccfiltr_el0, PMCCFILTR_EL2_TOO);
    WRITE_REGISTER(pmcntenset_el0, PMCNTEN_CYCLES);
    WRITE_REGISTER(pmcr_el0, PMCR_ENABLE | PMCR_CYCLES_64);
}

/* SVE and SME, by the registers' numbers: assemblers that are older do not know their names. */
static void give_vectors(void)
{
    bool sve = READ_REGISTER(id_aa64pfr0_el1) >> PFR0_SVE_SHIFT & 0xf;
    bool sme = READ_REGISTER(id_aa64pfr1_el1) >> PFR1_SME_SHIFT & 0xf;

    WRITE_REGISTER(cptr_el2, (CPTR_RES1 & ~CPTR_TSM) | (sve ? 0 : CPTR_TZ) | (sme ? 0 : CPTR_TSM));
    isb();
    if (sve)
        WRITE_REGISTER(s3_4_c1_c2_0, VECTOR_LENGTH_MOST); /* ZCR_EL2 */
    if (sme)
        WRITE_REGISTER(s3_4_c1_c2_6, SMCR_FA64 | VECTOR_LENGTH_MOST); /* SMCR_EL2 */
}

/* What is not Set/Way's business is the guest's. */
static void set_up_el2(const struct vcpu *vcpu)
{
    give_vectors();
    WRITE_REGISTER(hstr_el2, 0);
    WRITE_REGISTER(cnthctl_el2, CNTHCTL_EL1PCTEN | CNTHCTL_EL1PCEN);
    WRITE_REGISTER(cntvoff_el2, 0);
    WRITE_REGISTER(vpidr_el2, READ_REGISTER(midr_el1));
    WRITE_REGISTER(vmpidr_el2, READ_REGISTER(mpidr_el1));
    if (READ_REGISTER(id_aa64pfr0_el1) >> PFR0_GIC_SHIFT & 0xf) {
        WRITE_REGISTER(s3_4_c12_c9_5, ICC_SRE_ALL); /* ICC_SRE_EL2 */
        isb();
        WRITE_REGISTER(s3_4_c12_c11_0, 0); /* ICH_HCR_EL2: none of the guest's accesses trap */
    }
    WRITE_REGISTER(mdcr_el2, READ_REGISTER(pmcr_el0) >> PMCR_N_SHIFT & PMCR_N_MASK);
    WRITE_REGISTER(tpidr_el2, vcpu);
    stage2_enter();
    trap_vm_registers(vcpu); /* and stage 2 is on */
}

static _Noreturn void start_guest(struct vcpu *vcpu, struct frame *frame, uint64_t entry)
{
    bool aarch32 = parameters()->guest_bits == 32;

    rules_reset(&vcpu->rules);
    vcpu->report->starts++;
    set_up_el2(vcpu);
    WRITE_REGISTER(sctlr_el1, aarch32 ? SCTLR_EL1_RESET_AARCH32 : SCTLR_EL1_RESET);
    frame->elr = entry;
    frame->spsr = aarch32 ? SPSR_SVC_MASKED : SPSR_EL1H_MASKED;
    if (aarch32 && entry & 1) {
        frame->elr = entry - 1;
        frame->spsr |= SPSR_THUMB;
    }
    enter_guest(frame);
}

/* The guest looks at it with its caches off, at first. */
static void copy(const struct parameters *told)
{
    __builtin_memcpy((void *)told->copy_to, (const void *)told->copy_from, told->copy_bytes);
    clean_lines(told->copy_to, told->copy_to + told->copy_bytes, line_bytes());
    wait_for_maintenance();
}

_Noreturn void monitor_start(void)
{
    const struct parameters *told = parameters();
    struct frame frame = {0};

    if (told->magic != PARAMETERS_MAGIC || told->version != INTERFACE_VERSION)
        monitor_panic(0, told->magic, told->version);
    for (unsigned i = 0; i < MAX_VCPUS; i++) {
        vcpus[i].index = i;
        vcpus[i].report = &report()->vcpu[i];
    }
    count_cycles();
    copy(told);
    stage2_create();
    for (unsigned i = 0; i < sizeof(told->registers) / sizeof(told->registers[0]); i++)
        frame.x[i] = told->registers[i];
    report_start();
    MARK(MARK_GUEST_STARTS);
    start_guest(&vcpus[0], &frame, told->entry);
}

_Noreturn void monitor_start_secondary(unsigned index)
{
    struct vcpu *vcpu = &vcpus[index];
    struct frame frame = {0};
    uint64_t entry;

    count_cycles();
    entry = vcpu->entry;
    frame.x[0] = vcpu->context;
    vcpu->report->on_ticks = vcpu->on_ticks;
    vcpu->report->on_cycles = vcpu->on_cycles;
    vcpu->report->caches_on_ticks = vcpu->report->caches_on_cycles = 0;
    __atomic_store_n(&vcpu->starting, false, __ATOMIC_RELEASE);
    start_guest(vcpu, &frame, entry);
}

_Noreturn void monitor_panic(uint64_t esr, uint64_t elr, uint64_t far)
{
    struct report *told = report();

    told->panic[0] = READ_REGISTER(mpidr_el1) & 0xff;
    told->panic[1] = esr;
    told->panic[2] = elr;
    told->panic[3] = far;
    report_end(STATE_PANICKED);
    power_off();
}
