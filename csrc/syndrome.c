/*
 * A stage-2 fault as EL2 finds it in its registers.
 * Sources: Arm ARM DDI 0487, D19.2 (ESR_EL2, ISS encodings of instruction and data aborts;
 * HPFAR_EL2), G8.2 (HSR, HPFAR).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdbool.h>
#include "geometry.h"
#include "p2mfast/p2mfast.h"

#define EC_SHIFT 26
#define EC_INSTRUCTION_ABORT ((uint64_t)0x20) /* from a lower Exception level */
#define EC_DATA_ABORT ((uint64_t)0x24)
#define ESR_IL ((uint64_t)1 << 25) /* set without ISV, and for every instruction abort */
#define ISS_CM ((uint64_t)1 << 8)
#define ISS_S1PTW ((uint64_t)1 << 7)
#define ISS_WNR ((uint64_t)1 << 6)
#define HPFAR_FIPA_SHIFT 4
#define AARCH32_IPA_BITS 40
#define IPA_BITS 52

#define KNOWN_FLAGS (P2MFAST_STAGE1_WALK | P2MFAST_CACHE_OP | P2MFAST_AARCH32)

/* Fault status codes, with the level added: bits 1:0. */
static const uint8_t status[] = {
    [P2MFAST_FAULT_TRANSLATION] = 0x04, [P2MFAST_FAULT_PERMISSION] = 0x0c,
    [P2MFAST_FAULT_ACCESS_FLAG] = 0x08, [P2MFAST_FAULT_ADDRESS_SIZE] = 0x00,
    [P2MFAST_FAULT_EXTERNAL] = 0x14,
};

int p2mfast_syndrome(unsigned fault, int level, uint64_t ipa, unsigned access, unsigned flags,
                     p2mfast_syndrome_t *syndrome)
{
    bool fetch = access == P2MFAST_EXECUTE;
    unsigned bits = flags & P2MFAST_AARCH32 ? AARCH32_IPA_BITS : IPA_BITS;
    uint64_t iss;

    if (!fault || fault >= sizeof(status) || level < 0 || level > LEAF_LEVEL || !access ||
        access > 7 || flags & ~KNOWN_FLAGS || (flags & P2MFAST_CACHE_OP && fetch) || ipa >> bits)
        return P2MFAST_ERROR_ARGUMENT;
    if (flags & P2MFAST_AARCH32 && level == 0 && fault == P2MFAST_FAULT_TRANSLATION)
        level = 1;
    iss = status[fault] | (uint64_t)level;
    if (flags & P2MFAST_STAGE1_WALK)
        iss |= ISS_S1PTW;
    if (flags & P2MFAST_CACHE_OP)
        iss |= ISS_CM | ISS_WNR;
    if (access == P2MFAST_WRITE)
        iss |= ISS_WNR;
    syndrome->esr = (fetch ? EC_INSTRUCTION_ABORT : EC_DATA_ABORT) << EC_SHIFT | ESR_IL | iss;
    syndrome->hpfar = ipa >> PAGE_SHIFT << HPFAR_FIPA_SHIFT;
    return 0;
}
