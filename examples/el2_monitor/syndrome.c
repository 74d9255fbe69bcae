/*
 * What a trap to EL2 says of itself. Section numbers are those of the Arm ARM, DDI 0487.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stddef.h>
#include "syndrome.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define ISS_READ 1u
#define WORD_MASK 0xffffffffu

/* `length` bits of a register, from bit `low` on. */
static unsigned field(uint64_t value, unsigned low, unsigned length)
{
    return (unsigned)(value >> low & ((1u << length) - 1));
}

/* ---- System registers ---- */

/* How an instruction names a register, as one number: one for SYS, MSR and MRS, and for MCR and
 * MRC, where op0 is 0. */
#define KEY(op0, op1, crn, crm, op2) ((op0) << 14 | (op1) << 11 | (crn) << 7 | (crm) << 3 | (op2))

struct encoding {
    unsigned key;
    enum vm_register name;
    enum access_part part;
};

/* (D19.2, each register's own page) */
static const struct encoding aarch64[] = {
    {KEY(3, 0, 1, 0, 0), VM_SCTLR_EL1, PART_64},       {KEY(3, 0, 2, 0, 0), VM_TTBR0_EL1, PART_64},
    {KEY(3, 0, 2, 0, 1), VM_TTBR1_EL1, PART_64},       {KEY(3, 0, 2, 0, 2), VM_TCR_EL1, PART_64},
    {KEY(3, 0, 5, 1, 0), VM_AFSR0_EL1, PART_64},       {KEY(3, 0, 5, 1, 1), VM_AFSR1_EL1, PART_64},
    {KEY(3, 0, 5, 2, 0), VM_ESR_EL1, PART_64},         {KEY(3, 0, 6, 0, 0), VM_FAR_EL1, PART_64},
    {KEY(3, 0, 10, 2, 0), VM_MAIR_EL1, PART_64},       {KEY(3, 0, 10, 3, 0), VM_AMAIR_EL1, PART_64},
    {KEY(3, 0, 13, 0, 1), VM_CONTEXTIDR_EL1, PART_64},
};

/* (G8.2) An MCR of TTBR0 or TTBR1 leaves the upper half alone, which MCRR reaches. */
static const struct encoding cp15[] = {
    {KEY(0, 0, 1, 0, 0), VM_SCTLR_EL1, PART_32},
    {KEY(0, 0, 2, 0, 0), VM_TTBR0_EL1, PART_LOW},
    {KEY(0, 0, 2, 0, 1), VM_TTBR1_EL1, PART_LOW},
    {KEY(0, 0, 2, 0, 2), VM_TCR_EL1, PART_LOW},  /* TTBCR */
    {KEY(0, 0, 2, 0, 3), VM_TCR_EL1, PART_HIGH}, /* TTBCR2 */
    {KEY(0, 0, 3, 0, 0), VM_DACR32_EL2, PART_32},
    {KEY(0, 0, 5, 0, 0), VM_ESR_EL1, PART_32}, /* DFSR */
    {KEY(0, 0, 5, 0, 1), VM_IFSR32_EL2, PART_32},
    {KEY(0, 0, 5, 1, 0), VM_AFSR0_EL1, PART_32},   /* ADFSR */
    {KEY(0, 0, 5, 1, 1), VM_AFSR1_EL1, PART_32},   /* AIFSR */
    {KEY(0, 0, 6, 0, 0), VM_FAR_EL1, PART_LOW},    /* DFAR */
    {KEY(0, 0, 6, 0, 2), VM_FAR_EL1, PART_HIGH},   /* IFAR */
    {KEY(0, 0, 10, 2, 0), VM_MAIR_EL1, PART_LOW},  /* PRRR, MAIR0 */
    {KEY(0, 0, 10, 2, 1), VM_MAIR_EL1, PART_HIGH}, /* NMRR, MAIR1 */
    {KEY(0, 0, 10, 3, 0), VM_AMAIR_EL1, PART_LOW},
    {KEY(0, 0, 10, 3, 1), VM_AMAIR_EL1, PART_HIGH},
    {KEY(0, 0, 13, 0, 1), VM_CONTEXTIDR_EL1, PART_32},
};

/* MCRR and MRRC have opc1 and CRm alone. */
static const struct encoding cp15_64[] = {
    {KEY(0, 0, 0, 2, 0), VM_TTBR0_EL1, PART_PAIR},
    {KEY(0, 1, 0, 2, 0), VM_TTBR1_EL1, PART_PAIR},
};

/* DC ISW, CSW and CISW are SYS instructions (C5.3), with op0 1; DCISW and the others (G8.2) have
 * the same numbers otherwise. */
static bool is_set_way(unsigned op0, unsigned key)
{
    return key == KEY(op0, 0, 7, 6, 2) || key == KEY(op0, 0, 7, 10, 2) ||
           key == KEY(op0, 0, 7, 14, 2);
}

static void find(struct register_access *access, const struct encoding *encodings, size_t n,
                 unsigned key)
{
    for (size_t i = 0; i < n; i++) {
        if (encodings[i].key == key) {
            access->kind = ACCESS_VM_REGISTER;
            access->name = encodings[i].name;
            access->part = encodings[i].part;
            return;
        }
    }
}

/* (D19.2, ESR_EL2, the ISS encodings of these classes) */
struct register_access decode_register_access(uint64_t esr)
{
    struct register_access access = {
        .kind = ACCESS_OTHER, .read = esr & ISS_READ, .rt = field(esr, 5, 5)};
    enum exception_class class = exception_class(esr);
    unsigned crm = field(esr, 1, 4);
    unsigned op0 = class == CLASS_SYSTEM ? field(esr, 20, 2) : 0;
    unsigned key = KEY(op0, field(esr, 14, 3), field(esr, 10, 4), crm, field(esr, 17, 3));

    if (class == CLASS_CP15_64) {
        access.rt2 = field(esr, 10, 5);
        find(&access, cp15_64, COUNT_OF(cp15_64), KEY(0, field(esr, 16, 4), 0, crm, 0));
    } else if (class == CLASS_CP15 || class == CLASS_SYSTEM) {
        /* First what comes by the ten thousand. */
        if (!access.read && is_set_way(class == CLASS_SYSTEM, key))
            access.kind = ACCESS_SET_WAY;
        else if (class == CLASS_CP15)
            find(&access, cp15, COUNT_OF(cp15), key);
        else
            find(&access, aarch64, COUNT_OF(aarch64), key);
    }
    return access;
}

uint64_t written_value(const struct register_access *access, uint64_t old, uint64_t x_rt,
                       uint64_t x_rt2)
{
    uint64_t word = x_rt & WORD_MASK;

    switch (access->part) {
    case PART_32:
        return word;
    case PART_LOW:
        return (old & ~(uint64_t)WORD_MASK) | word;
    case PART_HIGH:
        return (old & WORD_MASK) | word << 32;
    case PART_PAIR:
        return x_rt2 << 32 | word;
    default:
        return x_rt;
    }
}

/* ---- Instructions ---- */

#define ESR_IL ((uint64_t)1 << 25)
#define ISS_CV ((uint64_t)1 << 24)
#define ISS_COND_LOW 20

/* SPSR_EL2 (D19.2); of an exception from AArch32 it has most of the CPSR's form. */
#define SPSR_AARCH32 ((uint64_t)1 << 4)
#define SPSR_T ((uint64_t)1 << 5)
#define SPSR_BTYPE ((uint64_t)3 << 10)
#define SPSR_SS ((uint64_t)1 << 21)
#define SPSR_IT_7_2_LOW 10
#define SPSR_IT_1_0_LOW 25
#define SPSR_IT ((uint64_t)0x3f << SPSR_IT_7_2_LOW | (uint64_t)3 << SPSR_IT_1_0_LOW)
#define COND_ALWAYS 0xe

static unsigned it_state(uint64_t spsr)
{
    return field(spsr, SPSR_IT_7_2_LOW, 6) << 2 | field(spsr, SPSR_IT_1_0_LOW, 2);
}

static uint64_t with_it_state(uint64_t spsr, unsigned it)
{
    return (spsr & ~SPSR_IT) | (uint64_t)(it >> 2) << SPSR_IT_7_2_LOW |
           (uint64_t)(it & 3) << SPSR_IT_1_0_LOW;
}

/* Where the syndrome does not tell (CV 0), the instruction is one of T32, and its condition is that
 * of the IT block it is in: IT[7:4], with IT[3:0] 0 outside of one. */
static unsigned condition(uint64_t esr, uint64_t spsr)
{
    if (esr & ISS_CV)
        return field(esr, ISS_COND_LOW, 4);
    if (spsr & SPSR_T && it_state(spsr) & 0xf)
        return it_state(spsr) >> 4;
    return COND_ALWAYS;
}

/* (F1.3, conditional execution; the pseudocode function ConditionHolds) */
bool condition_holds(uint64_t esr, uint64_t spsr)
{
    unsigned cond;
    bool n = spsr >> 31 & 1, z = spsr >> 30 & 1, c = spsr >> 29 & 1, v = spsr >> 28 & 1, holds;

    if (!(spsr & SPSR_AARCH32))
        return true; /* what traps there has no condition, and CV and COND have other meanings */
    cond = condition(esr, spsr);
    switch (cond >> 1) {
    case 0: /* EQ, NE */
        holds = z;
        break;
    case 1: /* CS, CC */
        holds = c;
        break;
    case 2: /* MI, PL */
        holds = n;
        break;
    case 3: /* VS, VC */
        holds = v;
        break;
    case 4: /* HI, LS */
        holds = c && !z;
        break;
    case 5: /* GE, LT */
        holds = n == v;
        break;
    case 6: /* GT, LE */
        holds = n == v && !z;
        break;
    default: /* AL; and 0b1111 is unconditional */
        return true;
    }
    return holds != (cond & 1);
}

/* The instruction has been executed: what PSTATE tells of it is over. A single step that was under
 * way is done, so that the debug exception comes before the next instruction; BTYPE is of the
 * instruction behind a branch; an IT block is one instruction further (ITAdvance). */
void skip_instruction(uint64_t esr, uint64_t *elr, uint64_t *spsr)
{
    unsigned it;

    *elr += esr & ESR_IL ? 4 : 2;
    *spsr &= ~SPSR_SS;
    if (!(*spsr & SPSR_AARCH32)) {
        *spsr &= ~SPSR_BTYPE;
        return;
    }
    *elr &= WORD_MASK;
    if (*spsr & SPSR_T) {
        it = it_state(*spsr);
        *spsr = with_it_state(*spsr, it & 7 ? (it & 0xe0) | (it << 1 & 0x1f) : 0);
    }
}

/* ---- Aborts ---- */

#define ISS_FNV ((uint64_t)1 << 10)
#define ISS_CM ((uint64_t)1 << 8)
#define ISS_S1PTW ((uint64_t)1 << 7)
#define ISS_WNR ((uint64_t)1 << 6)
#define STATUS_EXTERNAL 0x10 /* a synchronous external abort that was not on a walk */
#define PAGE_OFFSET_MASK 0xfffu

/* Bits 5:2 of the status codes whose bits 1:0 are a level (D19.2, ESR_EL2, DFSC and IFSC). */
static const enum p2mfast_fault fault_of_status[16] = {
    [0] = P2MFAST_FAULT_ADDRESS_SIZE, [1] = P2MFAST_FAULT_TRANSLATION,
    [2] = P2MFAST_FAULT_ACCESS_FLAG,  [3] = P2MFAST_FAULT_PERMISSION,
    [5] = P2MFAST_FAULT_EXTERNAL,
};

struct abort decode_abort(uint64_t esr, uint64_t far, uint64_t hpfar, unsigned bits)
{
    unsigned status = field(esr, 0, 6);
    bool fetch = exception_class(esr) == CLASS_FETCH_LOWER;
    /* Of an instruction abort CM and WnR are reserved. WnR is 1 of all maintenance. */
    bool maintenance = !fetch && esr & ISS_CM;
    struct abort abort = {
        .fault = fault_of_status[status >> 2],
        .level = fault_of_status[status >> 2] ? (int)(status & 3) : -1,
        .access = fetch                             ? P2MFAST_EXECUTE
                  : !maintenance && (esr & ISS_WNR) ? P2MFAST_WRITE
                                                    : P2MFAST_READ,
        .fetch = fetch,
        .maintenance = maintenance,
        .stage1_walk = esr & ISS_S1PTW,
        .far_valid = !(esr & ISS_FNV) && !(bits == 32 && far >> 32),
        .far = far,
    };

    if (status == STATUS_EXTERNAL)
        abort.fault = P2MFAST_FAULT_EXTERNAL;
    /* HPFAR_EL2: FIPA, bits 47:4, is IPA[55:12]. */
    abort.gpa = (hpfar >> 4 & (((uint64_t)1 << 44) - 1)) << 12 | (far & PAGE_OFFSET_MASK);
    return abort;
}
