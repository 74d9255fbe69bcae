/*
 * An exception for the guest: see inject.h. The steps are those of the Arm ARM's pseudocode
 * (DDI 0487, shared/functions: AArch64.TakeException; AArch32.EnterMode and its callers
 * AArch32.TakeUndefInstrException, TakeDataAbortException, TakePrefetchAbortException).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "inject.h"

#define BIT(n) ((uint64_t)1 << (n))
#define WORD_MASK 0xffffffffu

/* SPSR_EL2, from both states (D19.2). */
#define SPSR_NZCV (BIT(31) | BIT(30) | BIT(29) | BIT(28))
#define SPSR_DIT BIT(24)
#define SPSR_PAN BIT(22)
#define SPSR_SS BIT(21)
#define SPSR_IL BIT(20)
#define SPSR_A BIT(8)
#define SPSR_I BIT(7)
#define SPSR_F BIT(6)
#define SPSR_AARCH32 BIT(4)

/* From AArch64 alone. */
#define SPSR64_SSBS BIT(12)
#define SPSR64_D BIT(9)
#define SPSR64_EL ((uint64_t)0xc)
#define SPSR64_SP BIT(0)
#define MODE_EL1H ((uint64_t)5)

/* From AArch32 alone. */
#define SPSR32_IT (BIT(26) | BIT(25) | (uint64_t)0x3f << 10)
#define SPSR32_SSBS BIT(23)
#define SPSR32_E BIT(9)
#define SPSR32_T BIT(5)
#define SPSR32_MODE ((uint64_t)0x1f)
#define MODE_ABT ((uint64_t)0x17)
#define MODE_UND ((uint64_t)0x1b)

/* SCTLR_EL1; SPAN is in both states' form of it. */
#define SCTLR_SPAN BIT(23)
#define SCTLR64_DSSBS BIT(44)
#define SCTLR32_DSSBS BIT(31)
#define SCTLR32_TE BIT(30)
#define SCTLR32_EE BIT(25)
#define SCTLR32_V BIT(13)

/* ---- AArch64 ---- */

#define ESR_CLASS_LOW 26
#define ESR_IL BIT(25)
#define ISS_FNV BIT(10)
#define STATUS_EXTERNAL 0x10 /* a synchronous external abort, not on a walk */

/* Synchronous exceptions have the first vector of each four (D1.3, exception vectors). */
#define VECTOR_FROM_SP_EL0 0x000
#define VECTOR_FROM_SAME 0x200
#define VECTOR_FROM_LOWER64 0x400
#define VECTOR_FROM_LOWER32 0x600

static bool from_el0(uint64_t pstate)
{
    return pstate & SPSR_AARCH32 || !(pstate & SPSR64_EL);
}

static unsigned vector64(uint64_t pstate)
{
    if (pstate & SPSR_AARCH32)
        return VECTOR_FROM_LOWER32;
    if (from_el0(pstate))
        return VECTOR_FROM_LOWER64;
    return pstate & SPSR64_SP ? VECTOR_FROM_SAME : VECTOR_FROM_SP_EL0;
}

/* (D19.2, ESR_EL1) IL is 1: of EC 0, of an instruction abort, of a data abort without ISV. */
static uint64_t esr64(const struct exception *exception, uint64_t pstate)
{
    uint64_t status = exception->far_valid ? STATUS_EXTERNAL : STATUS_EXTERNAL | ISS_FNV;
    uint64_t class;

    switch (exception->kind) {
    case INJECT_DATA_ABORT:
        class = from_el0(pstate) ? CLASS_DATA_LOWER : CLASS_DATA_SAME;
        break;
    case INJECT_PREFETCH_ABORT:
        class = from_el0(pstate) ? CLASS_FETCH_LOWER : CLASS_FETCH_SAME;
        break;
    default:
        class = CLASS_UNKNOWN;
        status = 0;
    }
    return class << ESR_CLASS_LOW | ESR_IL | status;
}

/* The core's PSTATE behind the entry. What is left out of `kept` is 0 then: SS, IL, BTYPE, UAO. Of
 * an EL1 that the monitor gives no tags (HCR_EL2.ATA), TCO says nothing. */
static uint64_t pstate64(uint64_t pstate, uint64_t sctlr)
{
    uint64_t kept = pstate & (SPSR_NZCV | SPSR_DIT | SPSR_PAN);

    if (!(sctlr & SCTLR_SPAN))
        kept |= SPSR_PAN;
    if (sctlr & SCTLR64_DSSBS)
        kept |= SPSR64_SSBS;
    return kept | SPSR64_D | SPSR_A | SPSR_I | SPSR_F | MODE_EL1H;
}

void inject_aarch64(struct guest_state *guest, const struct exception *exception)
{
    guest->esr = esr64(exception, guest->pstate);
    if (exception->kind != INJECT_UNDEFINED && exception->far_valid)
        guest->far = exception->far;
    guest->elr = guest->pc;
    guest->spsr = guest->pstate;
    guest->pc = (guest->vbar & ~(uint64_t)0x7ff) + vector64(guest->pstate);
    guest->pstate = pstate64(guest->pstate, guest->sctlr);
}

/* ---- AArch32 ---- */

#define TTBCR_EAE BIT(31)
#define HIGH_VECTORS 0xffff0000u

/* DFSR and IFSR (G8.2) */
#define FSR_FNV BIT(16)
#define FSR_LPAE BIT(9)
#define FSR_EXTERNAL_LONG 0x10  /* STATUS: a synchronous external abort, not on a walk */
#define FSR_EXTERNAL_SHORT 0x08 /* FS: the same */

struct entry {
    unsigned vector;
    unsigned lr_from_arm; /* added to the address of the instruction */
    unsigned lr_from_thumb;
    uint64_t mode;
    uint64_t masked;
};

static const struct entry entries[] = {
    [INJECT_UNDEFINED] = {0x04, 4, 2, MODE_UND, SPSR_I},
    [INJECT_PREFETCH_ABORT] = {0x0c, 4, 4, MODE_ABT, SPSR_A | SPSR_I},
    [INJECT_DATA_ABORT] = {0x10, 8, 8, MODE_ABT, SPSR_A | SPSR_I},
};

/* An SPSR that AArch32 reads has DIT where SPSR_EL2 has SS (D19.2, SPSR_EL2; G8.2, SPSR_abt). */
static uint64_t spsr32(uint64_t pstate)
{
    uint64_t spsr = pstate & ~(SPSR_SS | SPSR_DIT);

    return pstate & SPSR_DIT ? spsr | SPSR_SS : spsr;
}

static uint64_t pstate32(uint64_t pstate, uint64_t sctlr, const struct entry *entry)
{
    pstate &= ~(SPSR32_IT | SPSR32_SSBS | SPSR_SS | SPSR_IL | SPSR32_E | SPSR32_T | SPSR32_MODE);
    if (sctlr & SCTLR32_TE)
        pstate |= SPSR32_T;
    if (sctlr & SCTLR32_EE)
        pstate |= SPSR32_E;
    if (!(sctlr & SCTLR_SPAN))
        pstate |= SPSR_PAN;
    if (sctlr & SCTLR32_DSSBS)
        pstate |= SPSR32_SSBS;
    return pstate | entry->masked | SPSR_AARCH32 | entry->mode;
}

static void set_fault_registers32(struct guest_state *guest, const struct exception *exception)
{
    uint64_t status =
        guest->tcr & TTBCR_EAE ? FSR_LPAE | FSR_EXTERNAL_LONG : (uint64_t)FSR_EXTERNAL_SHORT;
    bool fetch = exception->kind == INJECT_PREFETCH_ABORT;
    uint64_t far = exception->far & WORD_MASK;

    if (!exception->far_valid)
        status |= FSR_FNV;
    if (fetch)
        guest->ifsr = status;
    else
        guest->esr = status;
    if (!exception->far_valid)
        return;
    guest->far =
        fetch ? (guest->far & WORD_MASK) | far << 32 : (guest->far & ~(uint64_t)WORD_MASK) | far;
}

void inject_aarch32(struct guest_state *guest, const struct exception *exception)
{
    const struct entry *entry = &entries[exception->kind];
    bool thumb = guest->pstate & SPSR32_T;
    uint64_t base = guest->sctlr & SCTLR32_V ? HIGH_VECTORS : guest->vbar & WORD_MASK & ~0x1fu;

    if (exception->kind != INJECT_UNDEFINED)
        set_fault_registers32(guest, exception);
    guest->elr = (guest->pc + (thumb ? entry->lr_from_thumb : entry->lr_from_arm)) & WORD_MASK;
    guest->spsr = spsr32(guest->pstate);
    guest->pc = base + entry->vector;
    guest->pstate = pstate32(guest->pstate, guest->sctlr, entry);
}
