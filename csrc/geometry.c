/*
 * IPA size -> start level and concatenated roots -> VTCR_EL2, VTTBR_EL2.
 * Sources: Arm ARM DDI 0487 D8.2 (concatenated tables, table D8-9: start levels of the 4 KiB
 * granule), D19.2 (VTCR_EL2, VTTBR_EL2); the choice of level and pages for each size is Xen's
 * (xen/arch/arm/p2m.c, setup_virt_paging, pa_range_info).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "geometry.h"
#include "descriptor.h"
#include "p2mfast/p2mfast.h"

#define VTCR_RES1 ((uint64_t)1 << 31)
#define VTCR_VS ((uint64_t)1 << 19) /* 16-bit VMIDs */
#define VTCR_DS ((uint64_t)1 << 32) /* LPA2 */
#define VTCR_PS_SHIFT 16
#define VTCR_TG0 ((uint64_t)3 << 14) /* 0: 4 KiB */
#define VTCR_SH0_INNER ((uint64_t)3 << 12)
#define VTCR_ORGN0_WBWA ((uint64_t)1 << 10)
#define VTCR_IRGN0_WBWA ((uint64_t)1 << 8)
#define VTCR_SL0_SHIFT 6
#define VTCR_T0SZ ((uint64_t)0x3f)
#define MAX_ROOT_PAGES 16u
#define VTTBR_VMID_SHIFT 48
#define VTTBR_CNP ((uint64_t)1)

static const struct {
    uint8_t ipa_bits;
    int8_t root_level;
    uint8_t root_pages;
} layouts[] = {
    {32, 1, 1}, {36, 1, 1}, {40, 1, 2}, {42, 1, 8}, {44, 0, 1}, {48, 0, 1},
};

/* VTCR_EL2.PS, by its encoding. */
static const uint8_t physical_sizes[] = {32, 36, 40, 42, 44, 48};

static int physical_size_encoding(unsigned pa_bits)
{
    for (unsigned i = 0; i < sizeof(physical_sizes); i++)
        if (physical_sizes[i] == pa_bits)
            return (int)i;
    return -1;
}

static void lay_out(struct geometry *geometry, unsigned ipa_bits, unsigned pa_bits, int root_level,
                    unsigned root_pages)
{
    geometry->ipa_bits = (uint8_t)ipa_bits;
    geometry->pa_bits = (uint8_t)pa_bits;
    geometry->root_level = (int8_t)root_level;
    geometry->root_pages = (uint16_t)root_pages;
    for (int level = MIN_LEVEL; level <= LEAF_LEVEL; level++)
        geometry->order[level - MIN_LEVEL] = (uint8_t)GRANULE_ORDER(level);
    geometry->gfn_limit = (uint64_t)1 << (ipa_bits - PAGE_SHIFT);
    geometry->mfn_limit = (PTE_ADDRESS >> PAGE_SHIFT) + 1;
    geometry->index_mask = TABLE_WORDS - 1;
    geometry->root_mask = (uint64_t)TABLE_WORDS * root_pages - 1;
    geometry->address_mask = PTE_ADDRESS;
    geometry->type_mask = PTE_TYPE;
}

int geometry_init(struct geometry *geometry, unsigned ipa_bits, unsigned pa_bits, unsigned vmid)
{
    int ps = physical_size_encoding(pa_bits);
    unsigned i = 0;

    while (i < sizeof(layouts) / sizeof(layouts[0]) && layouts[i].ipa_bits != ipa_bits)
        i++;
    if (i == sizeof(layouts) / sizeof(layouts[0]))
        return P2MFAST_ERROR_IPA_BITS;
    if (ps < 0)
        return P2MFAST_ERROR_PA_BITS;
    if (vmid > 0xffff)
        return P2MFAST_ERROR_ARGUMENT;

    lay_out(geometry, ipa_bits, pa_bits, layouts[i].root_level, layouts[i].root_pages);
    /* SL0 counts the start level backwards for the 4 KiB granule: 0 is level 2, 2 is level 0. */
    geometry->vtcr = VTCR_RES1 | (vmid > 0xff ? VTCR_VS : 0) | (uint64_t)ps << VTCR_PS_SHIFT |
                     VTCR_SH0_INNER | VTCR_ORGN0_WBWA | VTCR_IRGN0_WBWA |
                     (uint64_t)(2 - geometry->root_level) << VTCR_SL0_SHIFT | (64 - ipa_bits);
    return 0;
}

/* T0SZ as VTCR_EL2 has it, 64 - ipa_bits, or as AArch32's VTCR: 32 - ipa_bits in four bits and the
 * sign. From 33 to 40 bits of IPA the two agree; below, AArch32's has values that the other has
 * not. 0: neither. */
static unsigned input_size(uint64_t vtcr)
{
    unsigned t0sz = vtcr & VTCR_T0SZ;

    if (t0sz < 8)
        return 32 - t0sz;
    return t0sz < 16 || t0sz > 39 ? 0 : 64 - t0sz;
}

/* PS 0 says 32 bits; but a VTCR without PS is AArch32's, which has 40, and no core has more input
 * than output. */
static unsigned output_size(uint64_t vtcr, unsigned ipa_bits)
{
    unsigned ps = vtcr >> VTCR_PS_SHIFT & 7;

    if (ps == 0)
        return ipa_bits > 32 || (vtcr & VTCR_T0SZ) < 8 ? 40 : 32;
    return ps < sizeof(physical_sizes) ? physical_sizes[ps] : 48;
}

int geometry_from_vtcr(struct geometry *geometry, uint64_t vtcr, unsigned pa_bits)
{
    unsigned ipa_bits = input_size(vtcr);
    int root_level = 2 - (int)(vtcr >> VTCR_SL0_SHIFT & 3);
    unsigned words_log2;
    unsigned pages;

    if (pa_bits && physical_size_encoding(pa_bits) < 0)
        return P2MFAST_ERROR_PA_BITS;
    if (!ipa_bits || root_level < 0 || vtcr & (VTCR_TG0 | VTCR_DS) ||
        ipa_bits - PAGE_SHIFT <= (unsigned)GRANULE_ORDER(root_level))
        return P2MFAST_ERROR_IPA_BITS;
    words_log2 = ipa_bits - PAGE_SHIFT - (unsigned)GRANULE_ORDER(root_level);
    pages = words_log2 > 9 ? 1u << (words_log2 - 9) : 1;
    if (pages > MAX_ROOT_PAGES)
        return P2MFAST_ERROR_IPA_BITS;
    lay_out(geometry, ipa_bits, pa_bits ? pa_bits : output_size(vtcr, ipa_bits), root_level, pages);
    geometry->vtcr = vtcr;
    return 0;
}

int geometry_root(const struct geometry *geometry, uint64_t vttbr, uint64_t *root)
{
    *root = vttbr & (((uint64_t)1 << VTTBR_VMID_SHIFT) - 1) & ~VTTBR_CNP;
    return *root % ((uint64_t)geometry->root_pages * TABLE_BYTES) ? P2MFAST_ERROR_TABLE_BASE : 0;
}

uint64_t geometry_vttbr(uint64_t root_mfn, unsigned vmid)
{
    return (uint64_t)vmid << VTTBR_VMID_SHIFT | root_mfn << PAGE_SHIFT;
}

uint64_t geometry_all_tables(const struct geometry *geometry)
{
    uint64_t tables = 0;

    for (int level = geometry->root_level; level < LEAF_LEVEL; level++)
        tables += geometry->gfn_limit >> level_order(geometry, level);
    return tables;
}
