/*
 * The P2M's life, its lock, its statistics, and the door for live changes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "p2m.h"

static struct ground ground_of(const struct p2mfast *p2m)
{
    uint64_t physical = (uint64_t)1 << (p2m->geometry.pa_bits - PAGE_SHIFT);
    uint64_t base = p2m->platform.base_mfn;

    return (struct ground){
        .root = p2m->root,
        .root_mask = p2m->geometry.root_mask,
        .memory = p2m->platform.memory,
        .frames = base < physical ? min_u64(p2m->platform.frames, physical - base) : 0,
        .pointer = pte_table(base),
    };
}

int p2m_init(struct p2mfast *p2m, const p2mfast_platform_t *platform,
             const p2mfast_config_t *config)
{
    int error = geometry_init(&p2m->geometry, config->ipa_bits, config->pa_bits, config->vmid);

    if (error)
        return error;
    p2m->platform = *platform;
    p2m->vmid = config->vmid;
    p2m->vec = platform->vec ? platform->vec : &vec_portable;
    p2m->lowest_mapped_gfn = P2MFAST_INVALID_GFN;
    p2m->max_mapped_gfn = 0;
    p2m->max_tables = config->max_tables;
    p2m->counted = 0;
    p2m->access = NULL;
    p2m->mem_access = false;
    p2m->stats = (p2mfast_stats_t){{0}, {0}, 0, 0, 0, 0, 0, 0, {0}};
    p2m->sequence = 0;
    p2m->stale = (struct span){0, 0};
    p2m->retired = NO_FRAME;
    p2m->root_frame = platform->take_roots(platform->context, p2m->geometry.root_pages);
    if (p2m->root_frame == NO_FRAME)
        return P2MFAST_ERROR_TABLES;
    p2m->root = platform->memory + p2m->root_frame * TABLE_WORDS;
    p2m->ground = ground_of(p2m);
    return 0;
}

void p2m_lock(struct p2mfast *p2m)
{
    if (p2m->platform.lock)
        p2m->platform.lock(p2m->platform.context);
}

void p2m_unlock(struct p2mfast *p2m)
{
    if (p2m->platform.unlock)
        p2m->platform.unlock(p2m->platform.context);
}

/* ---- The door ---- */

void p2m_write_begin(struct p2mfast *p2m)
{
    __atomic_store_n(&p2m->sequence, p2m->sequence + 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
}

void p2m_write_end(struct p2mfast *p2m)
{
    __atomic_store_n(&p2m->sequence, p2m->sequence + 1, __ATOMIC_RELEASE);
}

void p2m_invalidate(struct p2mfast *p2m, struct span span)
{
    __atomic_store_n(&p2m->stats.tlb_flushes, p2m->stats.tlb_flushes + 1, __ATOMIC_RELEASE);
    if (p2m->platform.invalidate_tlb)
        p2m->platform.invalidate_tlb(p2m->platform.context, span.start, span.end - span.start);
}

void p2m_invalidate_stale(struct p2mfast *p2m)
{
    if (p2m->stale.start == p2m->stale.end)
        return;
    p2m_invalidate(p2m, p2m->stale);
    p2m->stale = (struct span){0, 0};
}

static void add_stale(struct p2mfast *p2m, struct span span)
{
    if (p2m->stale.start == p2m->stale.end) {
        p2m->stale = span;
    } else {
        p2m->stale.start = min_u64(p2m->stale.start, span.start);
        p2m->stale.end = max_u64(p2m->stale.end, span.end);
    }
}

void p2m_break(struct p2mfast *p2m, uint64_t *words, size_t n, uint64_t keep, struct span span,
               enum invalidation invalidation)
{
    if (keep)
        p2m->vec->keep(words, n, keep);
    else
        p2m->vec->fill(words, n, 0, 0);
    if (invalidation == INVALIDATE_NOTHING)
        return;
    if (p2m->platform.barrier)
        p2m->platform.barrier(p2m->platform.context);
    add_stale(p2m, span);
    if (invalidation == INVALIDATE_NOW)
        p2m_invalidate_stale(p2m);
}

void p2m_make(struct p2mfast *p2m, uint64_t *words, size_t n, uint64_t first, uint64_t step)
{
    if (n == 1) {
        p2m_make_word(p2m, words, first);
        return;
    }
    p2m->vec->fill(words, n, first, step);
    if (p2m->platform.barrier)
        p2m->platform.barrier(p2m->platform.context);
}

void p2m_make_rights(struct p2mfast *p2m, uint64_t *word, uint64_t pte, struct span span)
{
    p2m_make_word(p2m, word, pte);
    if (span.start != span.end)
        add_stale(p2m, span);
}

/* ---- Looking ---- */

uint64_t p2m_next_valid(const struct p2mfast *p2m, const uint64_t *words, uint64_t from, uint64_t n)
{
    const uint64_t any_type = ~(uint64_t)0;
    uint64_t start = from - from % MASK_WORDS;
    uint64_t behind = ~(uint64_t)0 << (from % MASK_WORDS);

    if (from < n && pte_is_valid(pte_read(&words[from])))
        return from;
    for (; start < n; start += MASK_WORDS, behind = ~(uint64_t)0) {
        uint64_t mask = p2m->vec->of_types(words + start, any_type, 0) & behind;

        if (mask)
            return min_u64(n, start + (uint64_t)__builtin_ctzll(mask));
    }
    return n;
}

/* ---- Facts ---- */

int p2mfast_root_level(const p2mfast_t *p2m)
{
    return p2m->geometry.root_level;
}

unsigned p2mfast_root_pages(const p2mfast_t *p2m)
{
    return p2m->geometry.root_pages;
}

unsigned p2mfast_ipa_bits(const p2mfast_t *p2m)
{
    return p2m->geometry.ipa_bits;
}

unsigned p2mfast_pa_bits(const p2mfast_t *p2m)
{
    return p2m->geometry.pa_bits;
}

unsigned p2mfast_vmid(const p2mfast_t *p2m)
{
    return p2m->vmid;
}

const char *p2mfast_vector_loops(const p2mfast_t *p2m)
{
    return p2m->vec->name;
}

uint64_t p2mfast_vtcr(const p2mfast_t *p2m)
{
    return p2m->geometry.vtcr;
}

uint64_t p2mfast_vttbr(const p2mfast_t *p2m)
{
    return geometry_vttbr(p2m->platform.base_mfn + p2m->root_frame, p2m->vmid);
}

uint64_t p2mfast_tlb_generation(const p2mfast_t *p2m)
{
    return __atomic_load_n(&p2m->stats.tlb_flushes, __ATOMIC_ACQUIRE);
}

void p2mfast_config_init(p2mfast_config_t *config)
{
    *config = (p2mfast_config_t)P2MFAST_CONFIG_DEFAULT;
}

unsigned p2mfast_abi_version(void)
{
    return P2MFAST_ABI_VERSION;
}

const char *p2mfast_error_words(int error)
{
    static const char *const words[] = {
        [-P2MFAST_OK] = "no error",
        [-P2MFAST_ERROR_ARGUMENT] = "an argument that no P2M could take",
        [-P2MFAST_ERROR_RANGE] = "a frame beyond the address space",
        [-P2MFAST_ERROR_TABLES] = "max_tables, or the table memory, is used up",
        [-P2MFAST_ERROR_MISMATCH] = "RAM of another frame is mapped there",
        [-P2MFAST_ERROR_MEMORY] = "no memory for bookkeeping",
        [-P2MFAST_ERROR_TABLE_BASE] = "the tables' address is misaligned, or outside pa_bits",
        [-P2MFAST_ERROR_IPA_BITS] = "no such IPA size",
        [-P2MFAST_ERROR_PA_BITS] = "no such PA size",
        [-P2MFAST_ERROR_CORRUPT] = "a table pointer leads outside the table memory",
        [-P2MFAST_ERROR_ABI] = "compiled for another ABI version",
        [-P2MFAST_ERROR_CHECKPOINT] = "no checkpoint that can be restored",
    };
    unsigned number = error > 0 ? 0u : 0u - (unsigned)error;

    return number < sizeof(words) / sizeof(words[0]) ? words[number] : "an unknown error";
}

uint64_t p2mfast_lowest_mapped_gfn(const p2mfast_t *p2m)
{
    return __atomic_load_n(&p2m->lowest_mapped_gfn, __ATOMIC_RELAXED);
}

uint64_t p2mfast_max_mapped_gfn(const p2mfast_t *p2m)
{
    if (p2m_is_empty(p2m))
        return P2MFAST_INVALID_GFN;
    return __atomic_load_n(&p2m->max_mapped_gfn, __ATOMIC_RELAXED);
}

uint64_t p2mfast_max_tables(p2mfast_t *p2m)
{
    uint64_t max_tables;

    p2m_lock(p2m);
    max_tables = p2m->max_tables;
    p2m_unlock(p2m);
    return max_tables;
}

int p2mfast_set_max_tables(p2mfast_t *p2m, uint64_t max_tables)
{
    int error = 0;

    p2m_lock(p2m);
    if (max_tables < p2m->stats.tables)
        error = P2MFAST_ERROR_TABLES;
    else
        p2m->max_tables = max_tables;
    p2m_unlock(p2m);
    return error;
}

void p2mfast_get_stats(p2mfast_t *p2m, p2mfast_stats_t *stats)
{
    p2m_lock(p2m);
    *stats = p2m->stats;
    if (p2m->platform.usage)
        p2m->platform.usage(p2m->platform.context, &stats->free_tables, &stats->reserved_bytes);
    p2m_unlock(p2m);
}
