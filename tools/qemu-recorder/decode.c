/*
 * Instruction words (Arm ARM DDI 0487, C5 for AArch64, F5 and G8 for AArch32).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "decode.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const struct instruction other = {INSTRUCTION_OTHER, 0, CONDITION_ALWAYS};

static uint32_t halfword(const uint8_t *code)
{
    return code[0] | (uint32_t)code[1] << 8;
}

/* ---- AArch64: MSR and SYS, by op1, CRn, CRm, op2, which lie in bits 18 to 5 ---- */

#define A64_RT 0x1fu
#define A64_FIELDS(op1, crn, crm, op2) ((op1) << 16 | (crn) << 12 | (crm) << 8 | (op2) << 5)
#define A64_MSR 0xd5180000u /* op0 3 */
#define A64_SYS 0xd5080000u
#define A64_CALL_MASK 0xffe0001fu
#define A64_HVC 0xd4000002u
#define A64_SMC 0xd4000003u

static const struct {
    uint32_t word;
    enum instruction_kind kind;
} a64_words[] = {
    {A64_SYS | A64_FIELDS(0u, 7u, 6u, 2u), INSTRUCTION_ISW},
    {A64_SYS | A64_FIELDS(0u, 7u, 10u, 2u), INSTRUCTION_CSW},
    {A64_SYS | A64_FIELDS(0u, 7u, 14u, 2u), INSTRUCTION_CISW},
    {A64_SYS | A64_FIELDS(3u, 7u, 4u, 1u), INSTRUCTION_ZERO},
    {A64_MSR | A64_FIELDS(0u, 1u, 0u, 0u), INSTRUCTION_SCTLR},
    {A64_MSR | A64_FIELDS(0u, 2u, 0u, 0u), INSTRUCTION_VM_REG},  /* TTBR0_EL1 */
    {A64_MSR | A64_FIELDS(0u, 2u, 0u, 1u), INSTRUCTION_VM_REG},  /* TTBR1_EL1 */
    {A64_MSR | A64_FIELDS(0u, 2u, 0u, 2u), INSTRUCTION_VM_REG},  /* TCR_EL1 */
    {A64_MSR | A64_FIELDS(0u, 5u, 1u, 0u), INSTRUCTION_VM_REG},  /* AFSR0_EL1 */
    {A64_MSR | A64_FIELDS(0u, 5u, 1u, 1u), INSTRUCTION_VM_REG},  /* AFSR1_EL1 */
    {A64_MSR | A64_FIELDS(0u, 5u, 2u, 0u), INSTRUCTION_VM_REG},  /* ESR_EL1 */
    {A64_MSR | A64_FIELDS(0u, 6u, 0u, 0u), INSTRUCTION_VM_REG},  /* FAR_EL1 */
    {A64_MSR | A64_FIELDS(0u, 10u, 2u, 0u), INSTRUCTION_VM_REG}, /* MAIR_EL1 */
    {A64_MSR | A64_FIELDS(0u, 10u, 3u, 0u), INSTRUCTION_VM_REG}, /* AMAIR_EL1 */
    {A64_MSR | A64_FIELDS(0u, 13u, 0u, 1u), INSTRUCTION_VM_REG}, /* CONTEXTIDR_EL1 */
};

static struct instruction decode_a64(uint32_t word)
{
    uint32_t call = word & A64_CALL_MASK;

    if (call == A64_HVC || call == A64_SMC)
        return (struct instruction){INSTRUCTION_CALL, 0, CONDITION_ALWAYS};
    for (size_t i = 0; i < COUNT(a64_words); i++)
        if (a64_words[i].word == (word & ~A64_RT))
            return (struct instruction){a64_words[i].kind, word & A64_RT, CONDITION_ALWAYS};
    return other;
}

/* ---- AArch32: MCR and MCRR of coprocessor 15 ---- */

/* Without condition and Rt. An MCR of T32 is, its first halfword on top, the one of A32 whose
 * condition is "always". */
#define MCR_MASK 0x0fff0fffu
#define MCR(opc1, crn, crm, opc2) (0x0e000f10u | (opc1) << 21 | (crn) << 16 | (opc2) << 5 | (crm))
#define MCRR_MASK 0x0ff00fffu
#define MCRR(opc1, crm) (0x0c400f00u | (opc1) << 4 | (crm))
#define CONDITION 0xf0000000u
#define ALWAYS 0xe0000000u

static const struct {
    uint32_t mask, word;
    enum instruction_kind kind;
} a32_words[] = {
    {MCR_MASK, MCR(0u, 7u, 6u, 2u), INSTRUCTION_ISW},     /* DCISW */
    {MCR_MASK, MCR(0u, 7u, 10u, 2u), INSTRUCTION_CSW},    /* DCCSW */
    {MCR_MASK, MCR(0u, 7u, 14u, 2u), INSTRUCTION_CISW},   /* DCCISW */
    {MCR_MASK, MCR(0u, 1u, 0u, 0u), INSTRUCTION_SCTLR},   /* SCTLR */
    {MCR_MASK, MCR(0u, 2u, 0u, 0u), INSTRUCTION_VM_REG},  /* TTBR0 */
    {MCR_MASK, MCR(0u, 2u, 0u, 1u), INSTRUCTION_VM_REG},  /* TTBR1 */
    {MCR_MASK, MCR(0u, 2u, 0u, 2u), INSTRUCTION_VM_REG},  /* TTBCR */
    {MCR_MASK, MCR(0u, 2u, 0u, 3u), INSTRUCTION_VM_REG},  /* TTBCR2 */
    {MCR_MASK, MCR(0u, 3u, 0u, 0u), INSTRUCTION_VM_REG},  /* DACR */
    {MCR_MASK, MCR(0u, 5u, 0u, 0u), INSTRUCTION_VM_REG},  /* DFSR */
    {MCR_MASK, MCR(0u, 5u, 0u, 1u), INSTRUCTION_VM_REG},  /* IFSR */
    {MCR_MASK, MCR(0u, 5u, 1u, 0u), INSTRUCTION_VM_REG},  /* ADFSR */
    {MCR_MASK, MCR(0u, 5u, 1u, 1u), INSTRUCTION_VM_REG},  /* AIFSR */
    {MCR_MASK, MCR(0u, 6u, 0u, 0u), INSTRUCTION_VM_REG},  /* DFAR */
    {MCR_MASK, MCR(0u, 6u, 0u, 2u), INSTRUCTION_VM_REG},  /* IFAR */
    {MCR_MASK, MCR(0u, 10u, 2u, 0u), INSTRUCTION_VM_REG}, /* PRRR, MAIR0 */
    {MCR_MASK, MCR(0u, 10u, 2u, 1u), INSTRUCTION_VM_REG}, /* NMRR, MAIR1 */
    {MCR_MASK, MCR(0u, 10u, 3u, 0u), INSTRUCTION_VM_REG}, /* AMAIR0 */
    {MCR_MASK, MCR(0u, 10u, 3u, 1u), INSTRUCTION_VM_REG}, /* AMAIR1 */
    {MCR_MASK, MCR(0u, 13u, 0u, 1u), INSTRUCTION_VM_REG}, /* CONTEXTIDR */
    {MCRR_MASK, MCRR(0u, 2u), INSTRUCTION_VM_REG},        /* TTBR0, 64 bits */
    {MCRR_MASK, MCRR(1u, 2u), INSTRUCTION_VM_REG},        /* TTBR1 */
    {0x0ff000f0u, 0x01400070u, INSTRUCTION_CALL},         /* HVC of A32 */
    {0x0ff000f0u, 0x01600070u, INSTRUCTION_CALL},         /* SMC of A32 */
};

#define T32_CALL_MASK 0xfff0f000u
#define T32_HVC 0xf7e08000u
#define T32_SMC 0xf7f08000u

/* An instruction of four bytes is of A32 or of T32, and QEMU does not say which: both are tried.
 * None of the T32 words here, its halfwords in the other order, is one of the A32 words, nor the
 * other way round: where the one has 0xe in the top byte's lower half, the other has coprocessor
 * 15. (A half-precision comparison of Advanced SIMD in T32 could be taken for an MCR of A32; cores
 * with those instructions are Armv8.2.) */
static struct instruction decode_a32(uint32_t first, uint32_t second, unsigned t32_condition)
{
    uint32_t a32 = second << 16 | first, t32 = first << 16 | second, call = t32 & T32_CALL_MASK;

    if (call == T32_HVC || call == T32_SMC)
        return (struct instruction){INSTRUCTION_CALL, 0, CONDITION_ALWAYS};
    for (size_t i = 0; i < COUNT(a32_words); i++) {
        uint32_t mask = a32_words[i].mask, word = a32_words[i].word;
        unsigned coprocessor = a32_words[i].kind != INSTRUCTION_CALL;

        /* Condition 0b1111 makes another instruction of it. */
        if ((a32 & mask) == word && (a32 & CONDITION) != CONDITION)
            return (struct instruction){a32_words[i].kind, a32 >> 12 & 0xf, a32 >> 28};
        if (coprocessor && (t32 & (mask | CONDITION)) == (word | ALWAYS))
            return (struct instruction){a32_words[i].kind, t32 >> 12 & 0xf, t32_condition};
    }
    return other;
}

/* ---- Conditions ---- */

/* T32's ITSTATE (Arm ARM DDI 0487, G1): a condition in its upper half, and how many follow. */
#define IT_MASK 0xffu
#define IT_MORE 0x07u
#define IT_BASE 0xe0u
#define IT_NEXT 0x1fu
#define IT_CONDITION_SHIFT 4
#define T16_IT 0xbf00u
#define T16_IT_MASK 0x0fu /* 0: a hint */

static unsigned advance(unsigned it)
{
    return it & IT_MORE ? (it & IT_BASE) | (it << 1 & IT_NEXT) : 0;
}

bool condition_holds(unsigned condition, uint32_t flags)
{
    bool n = flags >> 31 & 1, z = flags >> 30 & 1, c = flags >> 29 & 1, v = flags >> 28 & 1;
    const bool tests[] = {z, c, n, v, c && !z, n == v, n == v && !z, true};

    return condition >= CONDITION_ALWAYS || tests[condition >> 1] != (condition & 1);
}

struct instruction decode(const uint8_t *code, size_t size, unsigned bits, unsigned *it)
{
    unsigned condition = *it ? *it >> IT_CONDITION_SHIFT : CONDITION_ALWAYS;

    *it = advance(*it);
    if (size == 4 && bits == 64)
        return decode_a64(halfword(code + 2) << 16 | halfword(code));
    if (size == 4)
        return decode_a32(halfword(code), halfword(code + 2), condition);
    if (size == 2 && (halfword(code) & ~IT_MASK) == T16_IT && halfword(code) & T16_IT_MASK)
        *it = halfword(code) & IT_MASK;
    return other;
}
