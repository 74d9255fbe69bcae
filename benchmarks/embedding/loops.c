/* In C: linked, and through the capsule. SPDX-License-Identifier: Apache-2.0 */
#include "loops.h"

uint64_t c_linked_get_entry(const p2mfast_t *p2m, const uint64_t *gfns, size_t n)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < n; i++) {
        p2mfast_entry_t entry;

        if (p2mfast_get_entry(p2m, gfns[i], &entry))
            return FAILED;
        sum += entry.mfn;
    }
    return sum;
}

uint64_t c_linked_translate_block(const p2mfast_t *p2m, const uint64_t *ipas, size_t n)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < n; i++) {
        p2mfast_tlb_entry_t entry;

        if (p2mfast_translate_block(p2m, ipas[i], P2MFAST_READ, &entry))
            return FAILED;
        sum += entry.pa;
    }
    return sum;
}

uint64_t c_capsule_get_entry(const p2mfast_capi_t *engine, const p2mfast_t *p2m,
                             const uint64_t *gfns, size_t n)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < n; i++) {
        p2mfast_entry_t entry;

        if (engine->get_entry(p2m, gfns[i], &entry))
            return FAILED;
        sum += entry.mfn;
    }
    return sum;
}

uint64_t c_capsule_translate_block(const p2mfast_capi_t *engine, const p2mfast_t *p2m,
                                   const uint64_t *ipas, size_t n)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < n; i++) {
        p2mfast_tlb_entry_t entry;

        if (engine->translate_block(p2m, ipas[i], P2MFAST_READ, &entry))
            return FAILED;
        sum += entry.pa;
    }
    return sum;
}
