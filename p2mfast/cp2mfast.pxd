# The C API of p2mfast/p2mfast.h, which tells each function's contract, as Cython sees it. Link
# libp2mfast.a, or compile p2mfast.c with your module (p2mfast.get_library_dir(), get_sources()).
# For the P2Ms of Python, cimport p2mfast._engine instead: it links nothing.
# SPDX-License-Identifier: Apache-2.0
from libc.stddef cimport size_t
from libc.stdint cimport int8_t, int32_t, uint8_t, uint32_t, uint64_t


cdef extern from "p2mfast/p2mfast.h" nogil:
    ctypedef struct p2mfast_t:
        pass

    unsigned P2MFAST_ABI_VERSION
    uint64_t P2MFAST_INVALID_MFN
    uint64_t P2MFAST_INVALID_GFN
    uint64_t P2MFAST_UNLIMITED
    unsigned P2MFAST_NO_ACCESS

    enum p2mfast_error:
        P2MFAST_OK
        P2MFAST_ERROR_ARGUMENT
        P2MFAST_ERROR_RANGE
        P2MFAST_ERROR_TABLES
        P2MFAST_ERROR_MISMATCH
        P2MFAST_ERROR_MEMORY
        P2MFAST_ERROR_TABLE_BASE
        P2MFAST_ERROR_IPA_BITS
        P2MFAST_ERROR_PA_BITS
        P2MFAST_ERROR_CORRUPT
        P2MFAST_ERROR_ABI
        P2MFAST_ERROR_CHECKPOINT

    unsigned P2MFAST_READ
    unsigned P2MFAST_WRITE
    unsigned P2MFAST_EXECUTE

    enum p2mfast_type:
        P2MFAST_INVALID
        P2MFAST_RAM_RW
        P2MFAST_RAM_RO
        P2MFAST_MMIO_DIRECT_DEV
        P2MFAST_MMIO_DIRECT_NC
        P2MFAST_MMIO_DIRECT_C
        P2MFAST_MAP_FOREIGN_RW
        P2MFAST_MAP_FOREIGN_RO
        P2MFAST_GRANT_MAP_RW
        P2MFAST_GRANT_MAP_RO
        P2MFAST_IOMMU_MAP_RW
        P2MFAST_IOMMU_MAP_RO
        P2MFAST_TYPE_COUNT

    enum p2mfast_access:
        P2MFAST_ACCESS_N
        P2MFAST_ACCESS_R
        P2MFAST_ACCESS_W
        P2MFAST_ACCESS_RW
        P2MFAST_ACCESS_X
        P2MFAST_ACCESS_RX
        P2MFAST_ACCESS_WX
        P2MFAST_ACCESS_RWX
        P2MFAST_ACCESS_RX2RW
        P2MFAST_ACCESS_N2RWX
        P2MFAST_ACCESS_R_PW
        P2MFAST_ACCESS_COUNT

    unsigned P2MFAST_ARMED
    unsigned P2MFAST_MAX_ORDER_9
    unsigned P2MFAST_MAX_ORDER_0
    unsigned P2MFAST_DEPTH_LEVEL
    unsigned P2MFAST_DEPTH_PATH
    unsigned P2MFAST_SKIP_NONE
    unsigned P2MFAST_SKIP_LEAF
    unsigned P2MFAST_SKIP_PATH
    unsigned P2MFAST_STAGE1_WALK
    unsigned P2MFAST_CACHE_OP
    unsigned P2MFAST_AARCH32

    enum p2mfast_fault:
        P2MFAST_FAULT_NONE
        P2MFAST_FAULT_TRANSLATION
        P2MFAST_FAULT_PERMISSION
        P2MFAST_FAULT_ACCESS_FLAG
        P2MFAST_FAULT_ADDRESS_SIZE
        P2MFAST_FAULT_EXTERNAL

    enum p2mfast_scope:
        P2MFAST_SCOPE_RANGE
        P2MFAST_SCOPE_VMID

    enum p2mfast_event_kind:
        P2MFAST_EVENT_TLB_INVALIDATE
        P2MFAST_EVENT_MAPPING_REMOVED

    enum p2mfast_finding_kind:
        P2MFAST_FINDING_MAPPINGS
        P2MFAST_FINDING_TABLES
        P2MFAST_FINDING_TABLE_TWICE
        P2MFAST_FINDING_OUTSIDE
        P2MFAST_FINDING_RESERVED
        P2MFAST_FINDING_MISALIGNED
        P2MFAST_FINDING_BOUNDS
        P2MFAST_FINDING_BEYOND
        P2MFAST_FINDING_COUNTED

    ctypedef struct p2mfast_invalidation_t:
        uint64_t gfn
        uint64_t nr
        uint32_t vmid
        uint32_t scope

    ctypedef struct p2mfast_config_t:
        uint32_t size
        unsigned ipa_bits
        unsigned pa_bits
        unsigned vmid
        uint64_t max_tables
        uint64_t table_base_mfn
        void *table_memory
        uint64_t table_frames
        void *context
        void (*tlb_invalidate)(void *context, const p2mfast_invalidation_t *invalidation)
        void *(*allocate)(void *context, size_t bytes)
        void (*release)(void *context, void *memory, size_t bytes)
        void (*log)(void *context, const char *message)

    ctypedef struct p2mfast_entry_t:
        uint64_t mfn
        uint8_t type
        uint8_t order
        uint8_t valid
        uint8_t reachable
        uint8_t access

    ctypedef struct p2mfast_translation_t:
        uint64_t pa
        uint64_t attrs
        int8_t level
        uint8_t fault

    ctypedef struct p2mfast_tlb_entry_t:
        uint64_t ipa
        uint64_t pa
        uint64_t size
        uint64_t descriptor
        uint8_t rights
        uint8_t memattr
        uint8_t shareability
        int8_t level
        uint8_t fault
        uint8_t reads

    ctypedef struct p2mfast_syndrome_t:
        uint64_t esr
        uint64_t hpfar

    ctypedef struct p2mfast_regime_t:
        uint64_t vttbr
        uint64_t vtcr
        uint64_t root
        uint8_t ipa_bits
        uint8_t pa_bits
        int8_t root_level
        uint8_t root_pages

    ctypedef struct p2mfast_walk_t:
        uint64_t address
        p2mfast_tlb_entry_t result
        uint64_t ipa
        const p2mfast_regime_t *regime
        uint32_t access
        int8_t level

    ctypedef struct p2mfast_run_t:
        uint64_t gfn
        uint64_t mfn
        uint64_t nr

    ctypedef struct p2mfast_mapped_run_t:
        uint64_t gfn
        uint64_t mfn
        uint64_t nr
        uint64_t type

    ctypedef struct p2mfast_word_t:
        uint64_t gfn
        uint64_t raw
        int8_t level

    ctypedef struct p2mfast_stats_t:
        uint64_t mappings[4]
        uint64_t shattered[4]
        uint64_t tables
        uint64_t tlb_flushes
        uint64_t resolved
        uint64_t armed
        uint64_t free_tables
        uint64_t reserved_bytes
        uint64_t resolved_levels[4]

    ctypedef struct p2mfast_event_t:
        uint64_t gfn
        uint64_t nr
        uint64_t mfn
        uint32_t kind
        uint32_t type

    ctypedef struct p2mfast_flush_t:
        uint64_t next_gfn
        uint64_t pages
        uint64_t work
        uint8_t done
        uint8_t progressed

    ctypedef struct p2mfast_finding_t:
        uint64_t gfn
        uint64_t value
        int32_t kind
        int32_t level

    void p2mfast_config_init(p2mfast_config_t *config)
    unsigned p2mfast_abi_version()
    const char *p2mfast_error_words(int error)
    p2mfast_t *p2mfast_create_with_error(const p2mfast_config_t *config, int *error)
    p2mfast_t *p2mfast_create(const p2mfast_config_t *config)
    void p2mfast_destroy(p2mfast_t *p2m)
    int p2mfast_root_level(const p2mfast_t *p2m)
    unsigned p2mfast_root_pages(const p2mfast_t *p2m)
    unsigned p2mfast_ipa_bits(const p2mfast_t *p2m)
    unsigned p2mfast_pa_bits(const p2mfast_t *p2m)
    unsigned p2mfast_vmid(const p2mfast_t *p2m)
    uint64_t p2mfast_vtcr(const p2mfast_t *p2m)
    const char *p2mfast_vector_loops(const p2mfast_t *p2m)
    uint64_t p2mfast_vttbr(const p2mfast_t *p2m)
    uint64_t p2mfast_lowest_mapped_gfn(const p2mfast_t *p2m)
    uint64_t p2mfast_max_mapped_gfn(const p2mfast_t *p2m)
    void p2mfast_get_stats(p2mfast_t *p2m, p2mfast_stats_t *stats)
    void p2mfast_tables(p2mfast_t *p2m, const uint64_t **first, uint64_t *rows, uint64_t *base_mfn)
    uint64_t p2mfast_copy_tables(p2mfast_t *p2m, uint64_t *words, uint64_t capacity)
    int p2mfast_get_entry(const p2mfast_t *p2m, uint64_t gfn, p2mfast_entry_t *entry)
    int p2mfast_get_entries(const p2mfast_t *p2m, const uint64_t *gfns, size_t n,
                            p2mfast_entry_t *entries)
    int p2mfast_translate(const p2mfast_t *p2m, uint64_t ipa, unsigned access,
                          p2mfast_translation_t *result)
    int p2mfast_translate_many(const p2mfast_t *p2m, const uint64_t *ipas, size_t n,
                               unsigned access, p2mfast_translation_t *results)
    int p2mfast_translate_block(const p2mfast_t *p2m, uint64_t ipa, unsigned access,
                                p2mfast_tlb_entry_t *entry)
    uint64_t p2mfast_tlb_generation(const p2mfast_t *p2m)
    int p2mfast_syndrome(unsigned fault, int level, uint64_t ipa, unsigned access, unsigned flags,
                         p2mfast_syndrome_t *syndrome)
    int p2mfast_regime(uint64_t vttbr, uint64_t vtcr, unsigned pa_bits, p2mfast_regime_t *regime)
    int p2mfast_walk_begin(p2mfast_walk_t *walk, const p2mfast_regime_t *regime, uint64_t ipa,
                           unsigned access)
    int p2mfast_walk_step(p2mfast_walk_t *walk, uint64_t descriptor)
    void p2mfast_walk_abort(p2mfast_walk_t *walk)
    int p2mfast_set_entry(p2mfast_t *p2m, uint64_t gfn, uint64_t nr, uint64_t mfn, unsigned type,
                          unsigned access, unsigned flags)
    int p2mfast_set_entries(p2mfast_t *p2m, const uint64_t *gfns, const uint64_t *mfns, size_t n,
                            unsigned type, unsigned access, unsigned flags)
    int p2mfast_remove_mapping(p2mfast_t *p2m, uint64_t gfn, uint64_t nr, uint64_t mfn)
    int p2mfast_relinquish(p2mfast_t *p2m, uint64_t budget)
    int p2mfast_invalidate_root(p2mfast_t *p2m)
    int p2mfast_resolve_translation_fault(p2mfast_t *p2m, uint64_t gfn, unsigned depth,
                                          unsigned order)
    int p2mfast_resolve_translation_faults(p2mfast_t *p2m, const uint64_t *gfns, size_t n,
                                           unsigned depth, unsigned order, uint8_t *resolved)
    int p2mfast_harvest(p2mfast_t *p2m, uint64_t *cursor, p2mfast_run_t *runs, size_t capacity,
                        size_t *n)
    int p2mfast_access_many(p2mfast_t *p2m, const uint64_t *ipas, const uint8_t *kinds, size_t n,
                            int resolve, unsigned depth, unsigned order, uint8_t *traps,
                            uint8_t *faults)
    uint64_t p2mfast_max_tables(p2mfast_t *p2m)
    int p2mfast_set_max_tables(p2mfast_t *p2m, uint64_t max_tables)
    int p2mfast_enable_mem_access(p2mfast_t *p2m, int enabled)
    int p2mfast_mem_access_enabled(const p2mfast_t *p2m)
    int p2mfast_set_mem_access(p2mfast_t *p2m, uint64_t gfn, uint64_t nr, unsigned access)
    int p2mfast_cache_flush_range(p2mfast_t *p2m, p2mfast_flush_t *flush, uint64_t end,
                                  unsigned skip, uint64_t budget, p2mfast_run_t *runs,
                                  size_t capacity, size_t *n)
    size_t p2mfast_words(p2mfast_t *p2m, int level, p2mfast_word_t *words, size_t capacity)
    size_t p2mfast_mapped_runs(p2mfast_t *p2m, p2mfast_mapped_run_t *runs, size_t capacity)
    int p2mfast_next_run(p2mfast_t *p2m, uint64_t *gfn, p2mfast_mapped_run_t *run)
    size_t p2mfast_check(p2mfast_t *p2m, uint8_t *seen, uint64_t rows, p2mfast_finding_t *findings,
                         size_t capacity)
    size_t p2mfast_drain_events(p2mfast_t *p2m, p2mfast_event_t *events, size_t capacity)
    size_t p2mfast_pending_events(p2mfast_t *p2m)
    size_t p2mfast_checkpoint(p2mfast_t *p2m, void *buffer, size_t capacity)
    p2mfast_t *p2mfast_restore(const void *buffer, size_t size, const p2mfast_config_t *config,
                               int *error)
