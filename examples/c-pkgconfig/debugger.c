/*
 * What a debugger of guests asks: which memory lies behind a guest address, and if none does, what
 * would EL2 see? It links libp2mfast.a, which pkg-config finds.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <p2mfast/p2mfast.h>

#include <inttypes.h>
#include <stdio.h>

/* No effect on anything: the guest cannot tell that it was looked at. */
static unsigned tell(const p2mfast_t *p2m, uint64_t ipa, unsigned access)
{
    p2mfast_tlb_entry_t entry;
    p2mfast_syndrome_t syndrome;

    if (p2mfast_translate_block(p2m, ipa, access, &entry))
        return P2MFAST_FAULT_EXTERNAL; /* not with these arguments */
    if (!entry.fault) {
        printf("0x%09" PRIx64 ": 0x%09" PRIx64 ", in a block of %" PRIu64 " KiB, MemAttr 0x%x\n",
               ipa, entry.pa + (ipa - entry.ipa), entry.size >> 10, entry.memattr);
        return P2MFAST_FAULT_NONE;
    }
    p2mfast_syndrome(entry.fault, entry.level, ipa, access, 0, &syndrome);
    printf("0x%09" PRIx64 ": fault at level %d: ESR_EL2 0x%" PRIx64 ", HPFAR_EL2 0x%" PRIx64 "\n",
           ipa, entry.level, syndrome.esr, syndrome.hpfar);
    return entry.fault;
}

int main(void)
{
    p2mfast_config_t config = P2MFAST_CONFIG_DEFAULT;
    p2mfast_t *p2m;
    int error;
    unsigned ram;
    unsigned rom;
    unsigned hole;

    config.ipa_bits = 36;
    p2m = p2mfast_create_with_error(&config, &error);
    if (!p2m) {
        fprintf(stderr, "%s\n", p2mfast_error_words(error));
        return 1;
    }
    /* 4 MiB of RAM in two blocks, and a page that the guest may only read. */
    error = p2mfast_set_entry(p2m, 0x40000, 1024, 0x80200, P2MFAST_RAM_RW, P2MFAST_ACCESS_RWX, 0);
    if (!error)
        error = p2mfast_set_entry(p2m, 0x50000, 1, 0x99999, P2MFAST_RAM_RO, P2MFAST_ACCESS_RWX, 0);
    if (error) {
        fprintf(stderr, "%s\n", p2mfast_error_words(error));
        p2mfast_destroy(p2m);
        return 1;
    }
    ram = tell(p2m, 0x40001234, P2MFAST_WRITE);
    rom = tell(p2m, 0x50000040, P2MFAST_WRITE);
    hole = tell(p2m, 0x60000000, P2MFAST_READ);
    p2mfast_destroy(p2m);
    return ram != P2MFAST_FAULT_NONE || rom != P2MFAST_FAULT_PERMISSION ||
           hole != P2MFAST_FAULT_TRANSLATION;
}
