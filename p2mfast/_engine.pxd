# The C API of include/p2mfast/p2mfast.h as Cython sees it. SPDX-License-Identifier: Apache-2.0
from libc.stddef cimport size_t
from libc.stdint cimport int8_t, int32_t, uint8_t, uint32_t, uint64_t


cdef extern from "p2mfast/p2mfast.h" nogil:
    ctypedef struct p2mfast_t:
        pass

    ctypedef struct p2mfast_config_t:
        unsigned ipa_bits
        unsigned pa_bits
        unsigned vmid
        uint64_t max_tables
        uint64_t table_base_mfn

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

    ctypedef struct p2mfast_run_t:
        uint64_t gfn
        uint64_t mfn
        uint64_t nr

    ctypedef struct p2mfast_mapped_run_t:
        pass

    ctypedef struct p2mfast_word_t:
        pass

    ctypedef struct p2mfast_event_t:
        pass

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

    uint64_t P2MFAST_INVALID_MFN
    uint64_t P2MFAST_INVALID_GFN
    uint64_t P2MFAST_UNLIMITED
    unsigned P2MFAST_NO_ACCESS
    unsigned P2MFAST_ARMED
    unsigned P2MFAST_MAX_ORDER_9
    unsigned P2MFAST_MAX_ORDER_0
    unsigned P2MFAST_DEPTH_LEVEL
    unsigned P2MFAST_DEPTH_PATH
    unsigned P2MFAST_SKIP_NONE
    unsigned P2MFAST_SKIP_LEAF
    unsigned P2MFAST_SKIP_PATH

    enum:
        P2MFAST_ERROR_ARGUMENT
        P2MFAST_ERROR_RANGE
        P2MFAST_ERROR_TABLES
        P2MFAST_ERROR_MISMATCH
        P2MFAST_ERROR_MEMORY
        P2MFAST_ERROR_TABLE_BASE
        P2MFAST_ERROR_IPA_BITS
        P2MFAST_ERROR_PA_BITS
        P2MFAST_ERROR_CORRUPT
        P2MFAST_ERROR_CHECKPOINT

    void p2mfast_config_init(p2mfast_config_t *config)
    p2mfast_t *p2mfast_create_with_error(const p2mfast_config_t *config, int *error)
    void p2mfast_destroy(p2mfast_t *p2m)
    int p2mfast_root_level(const p2mfast_t *p2m)
    unsigned p2mfast_ipa_bits(const p2mfast_t *p2m)
    unsigned p2mfast_pa_bits(const p2mfast_t *p2m)
    unsigned p2mfast_vmid(const p2mfast_t *p2m)
    uint64_t p2mfast_tlb_generation(const p2mfast_t *p2m)
    int p2mfast_translate_block(const p2mfast_t *p2m, uint64_t ipa, unsigned access,
                                p2mfast_tlb_entry_t *entry)
    size_t p2mfast_checkpoint(p2mfast_t *p2m, void *buffer, size_t capacity)
    p2mfast_t *p2mfast_restore(const void *buffer, size_t size, const p2mfast_config_t *config,
                               int *error)
    unsigned p2mfast_root_pages(const p2mfast_t *p2m)
    const char *p2mfast_vector_loops(const p2mfast_t *p2m)
    uint64_t p2mfast_vtcr(const p2mfast_t *p2m)
    uint64_t p2mfast_vttbr(const p2mfast_t *p2m)
    uint64_t p2mfast_lowest_mapped_gfn(const p2mfast_t *p2m)
    uint64_t p2mfast_max_mapped_gfn(const p2mfast_t *p2m)
    void p2mfast_get_stats(p2mfast_t *p2m, p2mfast_stats_t *stats)
    void p2mfast_tables(p2mfast_t *p2m, const uint64_t **first, uint64_t *rows,
                        uint64_t *base_mfn)
    uint64_t p2mfast_copy_tables(p2mfast_t *p2m, uint64_t *words, uint64_t capacity)
    int p2mfast_get_entry(const p2mfast_t *p2m, uint64_t gfn, p2mfast_entry_t *entry)
    int p2mfast_get_entries(const p2mfast_t *p2m, const uint64_t *gfns, size_t n,
                            p2mfast_entry_t *entries)
    int p2mfast_translate(const p2mfast_t *p2m, uint64_t ipa, unsigned access,
                          p2mfast_translation_t *result)
    int p2mfast_translate_many(const p2mfast_t *p2m, const uint64_t *ipas, size_t n,
                               unsigned access, p2mfast_translation_t *results)
    int p2mfast_set_entry(p2mfast_t *p2m, uint64_t gfn, uint64_t nr, uint64_t mfn, unsigned type,
                          unsigned access, unsigned flags)
    int p2mfast_set_entries(p2mfast_t *p2m, const uint64_t *gfns, const uint64_t *mfns, size_t n,
                            unsigned type, unsigned access, unsigned flags)
    int p2mfast_remove_mapping(p2mfast_t *p2m, uint64_t gfn, uint64_t nr, uint64_t mfn)
    int p2mfast_relinquish(p2mfast_t *p2m, uint64_t budget)
    int p2mfast_enable_mem_access(p2mfast_t *p2m, int enabled)
    int p2mfast_mem_access_enabled(const p2mfast_t *p2m)
    int p2mfast_set_mem_access(p2mfast_t *p2m, uint64_t gfn, uint64_t nr, unsigned access)
    uint64_t p2mfast_max_tables(p2mfast_t *p2m)
    int p2mfast_set_max_tables(p2mfast_t *p2m, uint64_t max_tables)
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
    int p2mfast_cache_flush_range(p2mfast_t *p2m, p2mfast_flush_t *flush, uint64_t end,
                                  unsigned skip, uint64_t budget, p2mfast_run_t *runs,
                                  size_t capacity, size_t *n)
    size_t p2mfast_words(p2mfast_t *p2m, int level, p2mfast_word_t *words, size_t capacity)
    size_t p2mfast_mapped_runs(p2mfast_t *p2m, p2mfast_mapped_run_t *runs, size_t capacity)
    size_t p2mfast_check(p2mfast_t *p2m, uint8_t *seen, uint64_t rows,
                         p2mfast_finding_t *findings, size_t capacity)
    size_t p2mfast_drain_events(p2mfast_t *p2m, p2mfast_event_t *events, size_t capacity)
    size_t p2mfast_pending_events(p2mfast_t *p2m)


cdef class P2M:
    cdef p2mfast_t *_p2m
    cdef readonly unsigned ipa_bits
    cdef readonly unsigned pa_bits
    cdef readonly unsigned vmid
    cdef object __weakref__
    cdef int translate_block(self, uint64_t ipa, unsigned access,
                             p2mfast_tlb_entry_t *entry) noexcept nogil
    cdef int look_up(self, uint64_t gfn, p2mfast_entry_t *entry) noexcept nogil
