/*
 * p2mfast: an Arm stage-2 page-table engine (a P2M: guest frames to machine frames).
 *
 * A P2M is a tree of 512-entry tables of 64-bit LPAE descriptors, exactly as an Arm MMU walks
 * them (Arm ARM DDI 0487, D8: VMSAv8-64, 4 KiB granule, stage 2). The engine builds such trees,
 * looks things up in them, and tracks which pages a guest has touched by the valid bits, as Xen's
 * P2M does. It can also walk trees that somebody else built. This header is all that an embedder
 * needs:
 *
 *     p2mfast_t *p2m = p2mfast_create(NULL);
 *     p2mfast_set_entry(p2m, 0x40000, 512, 0x80000, P2MFAST_RAM_RW, P2MFAST_ACCESS_RWX, 0);
 *     p2mfast_translation_t t;
 *     p2mfast_translate(p2m, 0x40000123, P2MFAST_READ, &t);      // t.pa is 0x80000123
 *     p2mfast_destroy(p2m);
 *
 * Memory    Tables lie in memory of the engine's own, or in a buffer that the embedder gives, with
 *           its physical address: then the simulated machine's own walker finds them there
 *           (p2mfast_config_t). Look-ups and walks allocate nothing; nothing is global.
 * Units     Frames (4 KiB, address >> 12) unless the name says otherwise; `ipa` and `pa` are byte
 *           addresses.
 * Errors    Functions that return int give 0 (or a documented positive value), or a negative
 *           enum p2mfast_error. A call that fails has changed nothing.
 * Threads   One writer at a time (each call takes the P2M's own lock), any number of readers that
 *           never block. Different P2Ms share nothing.
 * Ownership Every array is the caller's; nothing is kept after the call returns.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_P2MFAST_H
#define P2MFAST_P2MFAST_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifdef __cplusplus
typedef struct p2mfast_handle p2mfast_t; /* `p2mfast` is a namespace there */
#else
typedef struct p2mfast p2mfast_t;
#endif

/* Counts the changes that break embedders compiled before. */
#define P2MFAST_ABI_VERSION 1u

#define P2MFAST_INVALID_MFN UINT64_MAX
#define P2MFAST_INVALID_GFN UINT64_MAX
#define P2MFAST_UNLIMITED UINT64_MAX
#define P2MFAST_NO_ACCESS 0xffu /* entry.access of a hole */

enum p2mfast_error {
    P2MFAST_OK = 0,
    P2MFAST_ERROR_ARGUMENT = -1,    /* an argument that no P2M could take */
    P2MFAST_ERROR_RANGE = -2,       /* a GFN or MFN beyond the address space */
    P2MFAST_ERROR_TABLES = -3,      /* max_tables, or the table memory, is used up */
    P2MFAST_ERROR_MISMATCH = -4,    /* remove_mapping: RAM of another MFN is there */
    P2MFAST_ERROR_MEMORY = -5,      /* the surroundings have no memory for bookkeeping */
    P2MFAST_ERROR_TABLE_BASE = -6,  /* table_base_mfn: misaligned, or outside pa_bits */
    P2MFAST_ERROR_IPA_BITS = -7,    /* ipa_bits: none of 32 36 40 42 44 48 */
    P2MFAST_ERROR_PA_BITS = -8,     /* pa_bits: none of 32 36 40 42 44 48 */
    P2MFAST_ERROR_CORRUPT = -9,     /* a table pointer leads outside the table memory */
    P2MFAST_ERROR_ABI = -10,        /* config.size: not of this ABI version */
    P2MFAST_ERROR_CHECKPOINT = -11, /* not a checkpoint that can be restored */
};

/* Rights and accesses, or-ed. */
#define P2MFAST_READ 1u
#define P2MFAST_WRITE 2u
#define P2MFAST_EXECUTE 4u

/* What a GFN is mapped to; Xen's numbering (xen/arch/arm/include/asm/p2m.h, p2m_type_t). */
enum p2mfast_type {
    P2MFAST_INVALID = 0,
    P2MFAST_RAM_RW = 1,
    P2MFAST_RAM_RO = 2,
    P2MFAST_MMIO_DIRECT_DEV = 3,
    P2MFAST_MMIO_DIRECT_NC = 4,
    P2MFAST_MMIO_DIRECT_C = 5,
    P2MFAST_MAP_FOREIGN_RW = 6,
    P2MFAST_MAP_FOREIGN_RO = 7,
    P2MFAST_GRANT_MAP_RW = 8,
    P2MFAST_GRANT_MAP_RO = 9,
    P2MFAST_IOMMU_MAP_RW = 10,
    P2MFAST_IOMMU_MAP_RO = 11,
    P2MFAST_TYPE_COUNT
};

/* What the guest may do, on top of the type; Xen's numbering (p2m_access_t). */
enum p2mfast_access {
    P2MFAST_ACCESS_N = 0,
    P2MFAST_ACCESS_R = 1,
    P2MFAST_ACCESS_W = 2,
    P2MFAST_ACCESS_RW = 3,
    P2MFAST_ACCESS_X = 4,
    P2MFAST_ACCESS_RX = 5,
    P2MFAST_ACCESS_WX = 6,
    P2MFAST_ACCESS_RWX = 7,
    P2MFAST_ACCESS_RX2RW = 8,
    P2MFAST_ACCESS_N2RWX = 9,
    P2MFAST_ACCESS_R_PW = 10,
    P2MFAST_ACCESS_COUNT
};

/* Flags of p2mfast_set_entry and p2mfast_set_entries. */
#define P2MFAST_ARMED 1u       /* write the leaves with bit 0 clear: their first touch faults */
#define P2MFAST_MAX_ORDER_9 2u /* no superpage above 2 MiB */
#define P2MFAST_MAX_ORDER_0 4u /* 4 KiB pages only */

/* How much one resolved fault makes reachable. */
#define P2MFAST_DEPTH_LEVEL 0u /* one level, as Xen: up to four faults a page */
#define P2MFAST_DEPTH_PATH 1u  /* the whole path: one fault */

/* What a flush leaves out. */
#define P2MFAST_SKIP_NONE 0u /* nothing: all mapped RAM */
#define P2MFAST_SKIP_LEAF 1u /* leaves with bit 0 clear, as Xen */
#define P2MFAST_SKIP_PATH 2u /* whatever is not reachable */

/* Why the MMU refuses an access. */
enum p2mfast_fault {
    P2MFAST_FAULT_NONE = 0,
    P2MFAST_FAULT_TRANSLATION = 1,
    P2MFAST_FAULT_PERMISSION = 2,
    P2MFAST_FAULT_ACCESS_FLAG = 3,
    P2MFAST_FAULT_ADDRESS_SIZE = 4,
    P2MFAST_FAULT_EXTERNAL = 5, /* a table address outside the table memory: abort on the walk */
};

/* What a TLB invalidation is for. */
enum p2mfast_scope {
    P2MFAST_SCOPE_RANGE =
        1,                  /* nr pages from gfn on, and what was cached of the tables above them */
    P2MFAST_SCOPE_VMID = 2, /* everything of the VMID */
};

typedef struct p2mfast_invalidation {
    uint64_t gfn;
    uint64_t nr;
    uint32_t vmid;
    uint32_t scope; /* enum p2mfast_scope */
} p2mfast_invalidation_t;

/* Begin with P2MFAST_CONFIG_DEFAULT and change what is to be other than that. */
typedef struct p2mfast_config {
    uint32_t size;       /* sizeof(p2mfast_config_t) */
    unsigned ipa_bits;   /* 32 36 40 42 44 48 */
    unsigned pa_bits;    /* 32 36 40 42 44 48: VTCR_EL2.PS */
    unsigned vmid;       /* 0 to 65535; above 255 VTCR_EL2.VS is set */
    uint64_t max_tables; /* quota of tables besides the roots, or P2MFAST_UNLIMITED */
    /* Frame of the first table, aligned to the number of root tables (16 always does), or
     * P2MFAST_INVALID_MFN: the engine picks. It must be given with table_memory. */
    uint64_t table_base_mfn;
    /* Where the tables lie: table_frames frames of 4 KiB, 8-byte aligned, that the embedder keeps
     * until the P2M is destroyed; they need not be cleared. Nothing else may write there, the
     * simulated machine neither: tables that are free are chained in it, and that is trusted. NULL:
     * the engine takes memory of its own. */
    void *table_memory;
    uint64_t table_frames;

    void *context; /* handed to the functions below, each of which may be NULL */
    /* Called for every TLB invalidation, before the call that made it due goes on; then none is
     * queued as an event (removals of foreign mappings still are: drain them if there are any). It
     * runs under the P2M's lock, and must not call the P2M. */
    void (*tlb_invalidate)(void *context, const p2mfast_invalidation_t *invalidation);
    /* Memory for the handle and for bookkeeping, aligned as malloc's; NULL: there is none. Both or
     * neither. */
    void *(*allocate)(void *context, size_t bytes);
    void (*release)(void *context, void *memory, size_t bytes);
    /* What a person should know; `message` lives on. */
    void (*log)(void *context, const char *message);
} p2mfast_config_t;

#define P2MFAST_CONFIG_DEFAULT                                                                     \
    {sizeof(p2mfast_config_t),                                                                     \
     40,                                                                                           \
     48,                                                                                           \
     1,                                                                                            \
     P2MFAST_UNLIMITED,                                                                            \
     P2MFAST_INVALID_MFN,                                                                          \
     NULL,                                                                                         \
     0,                                                                                            \
     NULL,                                                                                         \
     NULL,                                                                                         \
     NULL,                                                                                         \
     NULL,                                                                                         \
     NULL}

typedef struct p2mfast_entry {
    uint64_t mfn;      /* of the GFN asked for, or P2MFAST_INVALID_MFN */
    uint8_t type;      /* enum p2mfast_type; 0: a hole */
    uint8_t order;     /* log2 pages of the block that maps it, or of the hole */
    uint8_t valid;     /* bit 0 of the leaf's own word */
    uint8_t reachable; /* bit 0 of every word on the way, the leaf's included */
    uint8_t access;    /* enum p2mfast_access, or P2MFAST_NO_ACCESS in a hole */
    uint8_t reserved[3];
} p2mfast_entry_t;

typedef struct p2mfast_translation {
    uint64_t pa;    /* byte address; 0 where there is a fault */
    uint64_t attrs; /* the leaf descriptor without its address bits; 0 where there is a fault */
    int8_t level;   /* of the leaf, or of the descriptor that faulted */
    uint8_t fault;  /* enum p2mfast_fault */
    uint8_t reserved[6];
} p2mfast_translation_t;

/* A translation as a TLB keeps it: the whole block that maps the address. */
typedef struct p2mfast_tlb_entry {
    uint64_t ipa;         /* of the block's first byte */
    uint64_t pa;          /* the same */
    uint64_t size;        /* in bytes; 0: nothing maps the address, and `fault` says why */
    uint64_t descriptor;  /* the leaf, or the word that the fault was found at */
    uint8_t rights;       /* P2MFAST_READ... that stage 2 grants */
    uint8_t memattr;      /* MemAttr[3:0] */
    uint8_t shareability; /* SH[1:0] */
    int8_t level;         /* of the leaf, or of the fault */
    uint8_t fault;        /* enum p2mfast_fault; where the leaf does not permit the access, the rest
                             is told all the same */
    uint8_t reads;        /* descriptors read */
    uint8_t reserved[2];
} p2mfast_tlb_entry_t;

/* What EL2 (Hyp mode, for AArch32) finds in its registers after a stage-2 abort. */
typedef struct p2mfast_syndrome {
    uint64_t esr;   /* ESR_EL2: EC, IL, ISS without ISV; HSR for AArch32 */
    uint64_t hpfar; /* HPFAR_EL2: the faulting page in FIPA; HPFAR for AArch32 */
} p2mfast_syndrome_t;

/* Flags of p2mfast_syndrome. */
#define P2MFAST_STAGE1_WALK 1u /* the access was stage 1's, to one of its tables: S1PTW */
#define P2MFAST_CACHE_OP 2u    /* cache maintenance: CM, and WnR with it */
#define P2MFAST_AARCH32 4u     /* HSR and HPFAR of a 32-bit Hyp mode */

/* A translation regime: what VTTBR and VTCR say, of the engine's own tables or anybody's. */
typedef struct p2mfast_regime {
    uint64_t vttbr;
    uint64_t vtcr;
    uint64_t root; /* physical address of the (first) root table */
    uint8_t ipa_bits;
    uint8_t pa_bits;
    int8_t root_level;
    uint8_t root_pages;
    uint32_t reserved;
    uint64_t geometry[10]; /* the engine's */
} p2mfast_regime_t;

/* A walk under way; p2mfast_walk_begin and p2mfast_walk_step. */
typedef struct p2mfast_walk {
    uint64_t address;           /* read the 8 bytes at this physical address next */
    p2mfast_tlb_entry_t result; /* once it is done */
    uint64_t ipa;
    const p2mfast_regime_t *regime;
    uint32_t access;
    int8_t level;
    uint8_t reserved[3];
} p2mfast_walk_t;

typedef struct p2mfast_run {
    uint64_t gfn;
    uint64_t mfn;
    uint64_t nr;
} p2mfast_run_t;

typedef struct p2mfast_mapped_run {
    uint64_t gfn;
    uint64_t mfn;
    uint64_t nr;
    uint64_t type;
} p2mfast_mapped_run_t;

/* One non-zero word of a live table. */
typedef struct p2mfast_word {
    uint64_t gfn; /* first page that the word maps */
    uint64_t raw;
    int8_t level;
    uint8_t reserved[7];
} p2mfast_word_t;

typedef struct p2mfast_stats {
    uint64_t mappings[4];        /* leaves that are there, by level */
    uint64_t shattered[4];       /* superpages split, by their level */
    uint64_t tables;             /* live tables, the roots not counted */
    uint64_t tlb_flushes;        /* TLB invalidations since creation */
    uint64_t resolved;           /* translation faults resolved since creation */
    uint64_t armed;              /* root invalidations since creation, harvests included */
    uint64_t free_tables;        /* recycled ones that wait to be used again */
    uint64_t reserved_bytes;     /* memory taken for tables: in use, free, and made ready */
    uint64_t resolved_levels[4]; /* the same as resolved, by the level that the walk faulted at;
                                    those that were stale are not among them */
} p2mfast_stats_t;

enum p2mfast_event_kind {
    P2MFAST_EVENT_TLB_INVALIDATE = 1,  /* gfn, nr: translations to forget */
    P2MFAST_EVENT_MAPPING_REMOVED = 2, /* gfn, nr, mfn, type: a mapping of a foreign type went */
};

typedef struct p2mfast_event {
    uint64_t gfn;
    uint64_t nr;
    uint64_t mfn; /* P2MFAST_INVALID_MFN in a TLB invalidation */
    uint32_t kind;
    uint32_t type;
} p2mfast_event_t;

/* ---- Life ---------------------------------------------------------------------------------- */

/* *config = P2MFAST_CONFIG_DEFAULT, for languages that have no macros of C's. */
void p2mfast_config_init(p2mfast_config_t *config);
/* P2MFAST_ABI_VERSION of the engine that was linked. */
unsigned p2mfast_abi_version(void);
/* An error in words, for a person. */
const char *p2mfast_error_words(int error);

/* A P2M with its own table memory. NULL config: P2MFAST_CONFIG_DEFAULT. Returns NULL and, where
 * `error` is not NULL, a negative error there. */
p2mfast_t *p2mfast_create_with_error(const p2mfast_config_t *config, int *error);
p2mfast_t *p2mfast_create(const p2mfast_config_t *config);
/* Frees it and every table. NULL is allowed. No other call may be under way. */
void p2mfast_destroy(p2mfast_t *p2m);

/* ---- Facts --------------------------------------------------------------------------------- */

int p2mfast_root_level(const p2mfast_t *p2m);
unsigned p2mfast_root_pages(const p2mfast_t *p2m);
unsigned p2mfast_ipa_bits(const p2mfast_t *p2m);
unsigned p2mfast_pa_bits(const p2mfast_t *p2m);
unsigned p2mfast_vmid(const p2mfast_t *p2m);
uint64_t p2mfast_vtcr(const p2mfast_t *p2m);
/* Which loops over descriptors it uses: "portable", "avx2" or "x86-64-v4". */
const char *p2mfast_vector_loops(const p2mfast_t *p2m);
uint64_t p2mfast_vttbr(const p2mfast_t *p2m);
/* P2MFAST_INVALID_GFN while nothing was mapped. */
uint64_t p2mfast_lowest_mapped_gfn(const p2mfast_t *p2m);
uint64_t p2mfast_max_mapped_gfn(const p2mfast_t *p2m);
/* A snapshot under the lock. */
void p2mfast_get_stats(p2mfast_t *p2m, p2mfast_stats_t *stats);
/* The live descriptors: `rows` tables of 512 words from `*first`, which lies at `*base_mfn` for
 * the MMU. They stay mapped at that place for the P2M's life. */
void p2mfast_tables(p2mfast_t *p2m, const uint64_t **first, uint64_t *rows, uint64_t *base_mfn);

/* A consistent copy of the first `capacity` of those rows, under the lock. Returns how many rows
 * there are. */
uint64_t p2mfast_copy_tables(p2mfast_t *p2m, uint64_t *words, uint64_t capacity);

/* ---- Look-ups: never block ------------------------------------------------------------------ */

/* What gfn is mapped to. P2MFAST_ERROR_RANGE: gfn is beyond the IPA space. */
int p2mfast_get_entry(const p2mfast_t *p2m, uint64_t gfn, p2mfast_entry_t *entry);
/* The same for n GFNs. On P2MFAST_ERROR_RANGE nothing was written. */
int p2mfast_get_entries(const p2mfast_t *p2m, const uint64_t *gfns, size_t n,
                        p2mfast_entry_t *entries);
/* The MMU's view of a guest access (access: R 1, W 2, X 4, or-ed). A fault is in result->fault,
 * the call succeeds all the same. P2MFAST_ERROR_ARGUMENT: access is 0 or beyond 7. */
int p2mfast_translate(const p2mfast_t *p2m, uint64_t ipa, unsigned access,
                      p2mfast_translation_t *result);
int p2mfast_translate_many(const p2mfast_t *p2m, const uint64_t *ipas, size_t n, unsigned access,
                           p2mfast_translation_t *results);

/* The same as a TLB entry: the whole block, whatever the access may be. An access that the block
 * does not grant is a permission fault there, with everything else told all the same. No effect on
 * anything, so that debuggers may use it. Errors as p2mfast_translate. */
int p2mfast_translate_block(const p2mfast_t *p2m, uint64_t ipa, unsigned access,
                            p2mfast_tlb_entry_t *entry);
/* How many TLB invalidations there were: a copy of translations that was made when it was less is
 * stale. Costs one load. */
uint64_t p2mfast_tlb_generation(const p2mfast_t *p2m);

/* A fault (enum p2mfast_fault) at this level, in the registers of EL2 (Arm ARM D19.2, ESR_EL2 and
 * HPFAR_EL2). `access`: of P2MFAST_READ... those that were refused; WnR is set where that is
 * writing alone. An address beyond the input size is a fault of level 0 in AArch64, of level 1 in
 * AArch32: that level 0 is made 1. With P2MFAST_STAGE1_WALK `access` is the guest's, not the
 * walk's. P2MFAST_ERROR_ARGUMENT: no such fault, level, access or flags, or an IPA that HPFAR
 * cannot hold. */
int p2mfast_syndrome(unsigned fault, int level, uint64_t ipa, unsigned access, unsigned flags,
                     p2mfast_syndrome_t *syndrome);

/* ---- Walks that do not block --------------------------------------------------------------- */

/* For a simulator whose memory answers later, or whose tables are its own guests': the engine says
 * which descriptor to read, the simulator brings it.
 *
 *     p2mfast_regime_t regime;
 *     p2mfast_walk_t walk;
 *     p2mfast_regime(vttbr, vtcr, 0, &regime);
 *     for (int more = p2mfast_walk_begin(&walk, &regime, ipa, P2MFAST_READ); more;)
 *         more = p2mfast_walk_step(&walk, my_memory_read64(walk.address));
 *     // walk.result is the translation or the fault
 */

/* Decode VTTBR_EL2 and VTCR_EL2 (or AArch32's). pa_bits 0: VTCR.PS. P2MFAST_ERROR_IPA_BITS: no 4
 * KiB granule, or an input size or start level that it does not have; P2MFAST_ERROR_PA_BITS;
 * P2MFAST_ERROR_TABLE_BASE: the address is not aligned to the root tables. */
int p2mfast_regime(uint64_t vttbr, uint64_t vtcr, unsigned pa_bits, p2mfast_regime_t *regime);
/* 1: read walk->address, then step. 0: done (beyond the IPA space). The regime must live on.
 * P2MFAST_ERROR_ARGUMENT: access is 0 or beyond 7. */
int p2mfast_walk_begin(p2mfast_walk_t *walk, const p2mfast_regime_t *regime, uint64_t ipa,
                       unsigned access);
/* With the descriptor that was read: 1: read walk->address, then step again; 0: done. */
int p2mfast_walk_step(p2mfast_walk_t *walk, uint64_t descriptor);
/* Instead, where the read failed: the walk ends in an external abort. */
void p2mfast_walk_abort(p2mfast_walk_t *walk);

/* ---- Updates ------------------------------------------------------------------------------- */

/* Map nr pages from gfn to mfn on, in superpages where gfn, mfn and nr allow (Xen's
 * p2m_set_entry); mfn P2MFAST_INVALID_MFN removes. */
int p2mfast_set_entry(p2mfast_t *p2m, uint64_t gfn, uint64_t nr, uint64_t mfn, unsigned type,
                      unsigned access, unsigned flags);
/* Map n single pages; of equal GFNs the last wins; an MFN of P2MFAST_INVALID_MFN removes its page.
 */
int p2mfast_set_entries(p2mfast_t *p2m, const uint64_t *gfns, const uint64_t *mfns, size_t n,
                        unsigned type, unsigned access, unsigned flags);
/* Remove nr pages; P2MFAST_ERROR_MISMATCH where RAM other than mfn + offset is there
 * (Xen's p2m_remove_mapping). */
int p2mfast_remove_mapping(p2mfast_t *p2m, uint64_t gfn, uint64_t nr, uint64_t mfn);
/* Remove every leaf, keep the tables (Xen's relinquish_p2m_mapping). budget: entries or holes to
 * pass in this call, at least one is. 1: more is left, 0: done. */
int p2mfast_relinquish(p2mfast_t *p2m, uint64_t budget);

/* ---- Access tracking ------------------------------------------------------------------------ */

/* Clear bit 0 of every word of every root page (Xen's p2m_invalidate_root). */
int p2mfast_invalidate_root(p2mfast_t *p2m);
/* Make gfn reachable again after a translation fault; order: log2 of the aligned group of pages
 * that are made reachable with it (0 to 18; at DEPTH_LEVEL only within its last table).
 * 1: resolved, 0: nothing is mapped there. */
int p2mfast_resolve_translation_fault(p2mfast_t *p2m, uint64_t gfn, unsigned depth, unsigned order);
int p2mfast_resolve_translation_faults(p2mfast_t *p2m, const uint64_t *gfns, size_t n,
                                       unsigned depth, unsigned order, uint8_t *resolved);
/* Collect the reachable RAM and arm it, piece by piece. Start with *cursor = 0. Each call collects
 * AND arms its own piece; at most `capacity` runs (at least 1) go to runs, their number to *n.
 * 1: more, 0: done, and the root is armed. What is not yet collected stays reachable; so does, for
 * the next harvest, what was touched again behind the cursor and found no room in the piece that
 * ends its root entry. Clean the runs afterwards, outside any lock. */
int p2mfast_harvest(p2mfast_t *p2m, uint64_t *cursor, p2mfast_run_t *runs, size_t capacity,
                    size_t *n);

/* A guest's accesses: translate, resolve translation faults of armed entries, try again. kinds[i]
 * is R 1, W 2, X 4, or-ed. traps[i]: faults resolved for it; faults[i]: enum p2mfast_fault that is
 * left, 0 where the access succeeds. Addresses beyond the IPA space are translation faults.
 * resolve 0: nothing is resolved. P2MFAST_ERROR_ARGUMENT: a kind is 0 or beyond 7; nothing done. */
int p2mfast_access_many(p2mfast_t *p2m, const uint64_t *ipas, const uint8_t *kinds, size_t n,
                        int resolve, unsigned depth, unsigned order, uint8_t *traps,
                        uint8_t *faults);

/* The quota of tables besides the roots. P2MFAST_ERROR_TABLES: more than that are in use. */
uint64_t p2mfast_max_tables(p2mfast_t *p2m);
int p2mfast_set_max_tables(p2mfast_t *p2m, uint64_t max_tables);

/* ---- mem_access ----------------------------------------------------------------------------- */

/* While it is enabled, new mappings are made of pages, and what access each was set to is kept
 * beside the tables, where p2mfast_get_entry finds it (Xen's p2m->mem_access_enabled). Disabled,
 * look-ups say RWX; what was kept is there again when it is enabled. P2MFAST_ERROR_MEMORY: the
 * platform has no memory for it. */
int p2mfast_enable_mem_access(p2mfast_t *p2m, int enabled);
int p2mfast_mem_access_enabled(const p2mfast_t *p2m);
/* Enable it, and give what is mapped of nr pages from gfn on this access (Xen's
 * p2m_set_mem_access): superpages are shattered, holes stay holes. Only rights change, so that one
 * invalidation at the end does. */
int p2mfast_set_mem_access(p2mfast_t *p2m, uint64_t gfn, uint64_t nr, unsigned access);

/* ---- Cache flush ---------------------------------------------------------------------------- */

/* A flush under way. Set next_gfn to the start and the rest to 0; pass it again to go on. */
typedef struct p2mfast_flush {
    uint64_t next_gfn; /* where to go on; after a skip it may lie beyond the end */
    uint64_t pages;    /* pages collected so far */
    uint64_t work;     /* units since the last preemption: 1 a region skipped, 10 a page */
    uint8_t done;
    uint8_t progressed;
} p2mfast_flush_t;

/* Which pages of [flush->next_gfn, end) a cache flush cleans: RAM that `skip` does not leave out
 * (Xen's p2m_cache_flush_range). Changes nothing. Returns 1 when `runs` may not hold what
 * comes next (call again), 0 when the range is done (flush->done) or `budget` units of work are
 * (not done). */
int p2mfast_cache_flush_range(p2mfast_t *p2m, p2mfast_flush_t *flush, uint64_t end, unsigned skip,
                              uint64_t budget, p2mfast_run_t *runs, size_t capacity, size_t *n);

/* ---- What is there --------------------------------------------------------------------------- */

/* Every non-zero word of one level's live tables, ascending. Returns how many there are; the first
 * `capacity` of them are written. */
size_t p2mfast_words(p2mfast_t *p2m, int level, p2mfast_word_t *words, size_t capacity);
/* All mappings, coalesced where GFN, MFN and type go on. Returns how many runs there are. */
size_t p2mfast_mapped_runs(p2mfast_t *p2m, p2mfast_mapped_run_t *runs, size_t capacity);

/* The first run of mappings at or behind *gfn, coalesced as these; then *gfn is behind it. For
 * simulators that map memory by windows. 1: there is one, 0: there are no more. */
int p2mfast_next_run(p2mfast_t *p2m, uint64_t *gfn, p2mfast_mapped_run_t *run);

/* What p2mfast_check may find. */
enum p2mfast_finding_kind {
    P2MFAST_FINDING_MAPPINGS = 1,    /* stats.mappings[level] is not the number of leaves (value) */
    P2MFAST_FINDING_TABLES = 2,      /* stats.tables is not the number of tables (value) */
    P2MFAST_FINDING_TABLE_TWICE = 3, /* a table frame (value) is reached twice */
    P2MFAST_FINDING_OUTSIDE = 4,     /* a table frame (value) outside the table memory */
    P2MFAST_FINDING_RESERVED = 5,    /* a word (value) with bits that no operation sets */
    P2MFAST_FINDING_MISALIGNED = 6,  /* a block (value) whose address is not aligned to its size */
    P2MFAST_FINDING_BOUNDS = 7,      /* a leaf outside lowest_mapped_gfn..max_mapped_gfn */
    P2MFAST_FINDING_BEYOND = 8,      /* a word (value) beyond the IPA space */
    P2MFAST_FINDING_COUNTED = 9,     /* the number of counted leaves is not value */
};

typedef struct p2mfast_finding {
    uint64_t gfn;
    uint64_t value;
    int32_t kind;
    int32_t level;
} p2mfast_finding_t;

/* Check the whole tree against itself and the statistics. `seen` has a byte for each row of
 * p2mfast_tables (at least `rows` of them) and is overwritten. Returns the number of findings;
 * the first `capacity` are written. 0: sound. */
size_t p2mfast_check(p2mfast_t *p2m, uint8_t *seen, uint64_t rows, p2mfast_finding_t *findings,
                     size_t capacity);

/* Take up to `capacity` events, oldest first; returns how many. TLB invalidations are kept up to
 * 4096 and become a single one of everything beyond; removals are all kept. */
size_t p2mfast_drain_events(p2mfast_t *p2m, p2mfast_event_t *events, size_t capacity);
/* How many wait. */
size_t p2mfast_pending_events(p2mfast_t *p2m);

/* ---- Checkpoints --------------------------------------------------------------------------- */

/* All of a P2M in a buffer: tables, accesses, statistics, whatever its vector loops and memory.
 * Returns how many bytes it takes; no more than `capacity` are written, and none if that is less.
 * Waiting events are not kept. The format has a version and is the same on every machine. */
size_t p2mfast_checkpoint(p2mfast_t *p2m, void *buffer, size_t capacity);
/* A P2M as it was. `config` says only where it is to live (table_memory and the functions, or
 * NULL); sizes, VMID, quota and the tables' frame numbers are the checkpoint's. Everything is to be
 * taken for stale in TLBs: there is one invalidation, of the VMID. NULL, and a negative error where
 * `error` is not NULL: P2MFAST_ERROR_CHECKPOINT for what is no checkpoint, or one whose tree is not
 * sound. */
p2mfast_t *p2mfast_restore(const void *buffer, size_t size, const p2mfast_config_t *config,
                           int *error);

#ifdef __cplusplus
}
#endif
#endif
