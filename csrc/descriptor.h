/*
 * One LPAE stage-2 descriptor: fields as masks, predicates, constructors.
 * Layout: Arm ARM DDI 0487, D8.3 (VMSAv8-64 descriptor formats, stage 2). Bits 58:55 are left to
 * software by the architecture; the p2m type lives there, as in Xen (asm/lpae.h, lpae_p2m_t).
 *
 * "Present" is type != 0 and "valid" is bit 0. They are independent: software walks follow what
 * is present, the MMU follows what is valid, and an armed entry is present but not valid.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_DESCRIPTOR_H
#define P2MFAST_DESCRIPTOR_H

#include <stdbool.h>
#include <stdint.h>
#include "geometry.h"
#include "p2mfast/p2mfast.h"

#define PTE_VALID ((uint64_t)1 << 0)
#define PTE_TABLE ((uint64_t)1 << 1) /* table pointer above level 3, page at level 3 */
#define PTE_MEMATTR_SHIFT 2
#define PTE_MEMATTR ((uint64_t)0xf << PTE_MEMATTR_SHIFT)
#define PTE_READ ((uint64_t)1 << 6)  /* S2AP[0] */
#define PTE_WRITE ((uint64_t)1 << 7) /* S2AP[1] */
#define PTE_SH_SHIFT 8
#define PTE_SH ((uint64_t)3 << PTE_SH_SHIFT)
#define PTE_AF ((uint64_t)1 << 10)
#define PTE_ADDRESS ((uint64_t)0x0000fffffffff000)
#define PTE_CONTIGUOUS ((uint64_t)1 << 52)
#define PTE_XN ((uint64_t)1 << 54)
#define PTE_TYPE_SHIFT 55
#define PTE_TYPE ((uint64_t)0xf << PTE_TYPE_SHIFT)

/* What mem_access changes of a leaf. */
#define PTE_RIGHTS (PTE_READ | PTE_WRITE | PTE_XN)

/* What the engine itself writes; any other bit set is a finding. */
#define PTE_KNOWN                                                                                  \
    (PTE_VALID | PTE_TABLE | PTE_MEMATTR | PTE_READ | PTE_WRITE | PTE_SH | PTE_AF | PTE_ADDRESS |  \
     PTE_XN | PTE_TYPE)

#define SH_OUTER 2u
#define SH_INNER 3u
#define MEMATTR_DEVICE_NGNRE 0x1u
#define MEMATTR_NORMAL_NC 0x5u
#define MEMATTR_NORMAL_WB 0xfu

/* A table pointer carries the attributes of ordinary RAM, as Xen writes it; the MMU ignores them.
 */
#define PTE_TABLE_POINTER                                                                          \
    ((uint64_t)P2MFAST_RAM_RW << PTE_TYPE_SHIFT | PTE_AF | (uint64_t)SH_INNER << PTE_SH_SHIFT |    \
     PTE_WRITE | PTE_READ | (uint64_t)MEMATTR_NORMAL_WB << PTE_MEMATTR_SHIFT | PTE_TABLE |         \
     PTE_VALID)

/* Sets of p2m types, a bit each. */
#define TYPE_BIT(type) (1u << (type))
#define TYPES_FOREIGN (TYPE_BIT(P2MFAST_MAP_FOREIGN_RW) | TYPE_BIT(P2MFAST_MAP_FOREIGN_RO))
/* "Any RAM" (Xen's p2m_is_any_ram): what a flush cleans and remove_mapping compares. */
#define TYPES_RAM                                                                                  \
    (TYPE_BIT(P2MFAST_RAM_RW) | TYPE_BIT(P2MFAST_RAM_RO) | TYPES_FOREIGN |                         \
     TYPE_BIT(P2MFAST_GRANT_MAP_RW) | TYPE_BIT(P2MFAST_GRANT_MAP_RO))
/* Mappings that hold a reference on their page, so that their going is reported (Xen drops it in
 * p2m_put_foreign_page). */
#define TYPES_COUNTED TYPES_FOREIGN

/* ---- Predicates ---- */

static inline bool pte_is_valid(uint64_t pte)
{
    return pte & PTE_VALID;
}

static inline bool pte_is_present(const struct geometry *geometry, uint64_t pte)
{
    return (pte & geometry->type_mask) != 0;
}

/* Of a present descriptor: does it point to a table? */
static inline bool pte_is_table(uint64_t pte, int level)
{
    return level < LEAF_LEVEL && (pte & PTE_TABLE);
}

static inline bool pte_is_leaf(const struct geometry *geometry, uint64_t pte, int level)
{
    return pte_is_present(geometry, pte) && !pte_is_table(pte, level);
}

static inline unsigned pte_type(uint64_t pte)
{
    return (unsigned)((pte & PTE_TYPE) >> PTE_TYPE_SHIFT);
}

static inline bool pte_is_any_ram(uint64_t pte)
{
    return TYPES_RAM >> pte_type(pte) & 1;
}

static inline bool pte_is_counted(uint64_t pte)
{
    return TYPES_COUNTED >> pte_type(pte) & 1;
}

static inline uint64_t pte_mfn(const struct geometry *geometry, uint64_t pte)
{
    return (pte & geometry->address_mask) >> PAGE_SHIFT;
}

/* What it grants. An AArch64 EL2 lets XN alone decide about
 * fetches (Arm ARM D8.4.2, stage 2 data and instruction permissions). */
static inline unsigned pte_rights(uint64_t pte)
{
    return (pte & PTE_READ ? P2MFAST_READ : 0) | (pte & PTE_WRITE ? P2MFAST_WRITE : 0) |
           (pte & PTE_XN ? 0 : P2MFAST_EXECUTE);
}

static inline bool pte_permits(uint64_t pte, unsigned access)
{
    return (access & ~pte_rights(pte)) == 0;
}

/* ---- Constructors ---- */

static inline uint64_t pte_table(uint64_t mfn)
{
    return PTE_TABLE_POINTER | mfn << PAGE_SHIFT;
}

/* Attributes of a valid leaf, without address and bit 1 (they depend on where it is put).
 * By type first, then access only takes away (Xen: p2m_set_permission, mfn_to_p2m_entry). */
static inline uint64_t pte_attributes(unsigned type, unsigned access)
{
    static const uint8_t memattr[P2MFAST_TYPE_COUNT] = {
        [P2MFAST_MMIO_DIRECT_DEV] = MEMATTR_DEVICE_NGNRE,
        [P2MFAST_MMIO_DIRECT_NC] = MEMATTR_NORMAL_NC,
    };
    const unsigned outer = TYPE_BIT(P2MFAST_MMIO_DIRECT_DEV) | TYPE_BIT(P2MFAST_MMIO_DIRECT_NC) |
                           TYPE_BIT(P2MFAST_MMIO_DIRECT_C);
    const unsigned read_only = TYPE_BIT(P2MFAST_RAM_RO) | TYPE_BIT(P2MFAST_MAP_FOREIGN_RO) |
                               TYPE_BIT(P2MFAST_GRANT_MAP_RO) | TYPE_BIT(P2MFAST_IOMMU_MAP_RO);
    const unsigned executable = TYPE_BIT(P2MFAST_RAM_RW) | TYPE_BIT(P2MFAST_RAM_RO);
    /* What each access leaves, as R 1, W 2, X 4: the three that change by themselves start with
     * their first part. */
    static const uint8_t allowed[P2MFAST_ACCESS_COUNT] = {
        [P2MFAST_ACCESS_N] = 0,     [P2MFAST_ACCESS_R] = 1,    [P2MFAST_ACCESS_W] = 2,
        [P2MFAST_ACCESS_RW] = 3,    [P2MFAST_ACCESS_X] = 4,    [P2MFAST_ACCESS_RX] = 5,
        [P2MFAST_ACCESS_WX] = 6,    [P2MFAST_ACCESS_RWX] = 7,  [P2MFAST_ACCESS_RX2RW] = 5,
        [P2MFAST_ACCESS_N2RWX] = 0, [P2MFAST_ACCESS_R_PW] = 1,
    };
    unsigned rights = allowed[access] &
                      (1u | (read_only >> type & 1 ? 0 : 2u) | (executable >> type & 1 ? 4u : 0));
    uint64_t pte = PTE_VALID | PTE_AF | (uint64_t)type << PTE_TYPE_SHIFT;

    pte |= (uint64_t)(memattr[type] ? memattr[type] : MEMATTR_NORMAL_WB) << PTE_MEMATTR_SHIFT;
    pte |= (uint64_t)(outer >> type & 1 ? SH_OUTER : SH_INNER) << PTE_SH_SHIFT;
    pte |= (rights & 1 ? PTE_READ : 0) | (rights & 2 ? PTE_WRITE : 0) | (rights & 4 ? 0 : PTE_XN);
    return pte;
}

/* The leaf for mfn at this level. */
static inline uint64_t pte_leaf(uint64_t attributes, uint64_t mfn, int level)
{
    return attributes | mfn << PAGE_SHIFT | (level == LEAF_LEVEL ? PTE_TABLE : 0);
}

#endif
