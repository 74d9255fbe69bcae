/*
 * The P2M object as the core sees it: state, lock, table addresses, and the one door through
 * which live descriptors change.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_P2M_H
#define P2MFAST_P2M_H

#include "geometry.h"
#include "platform.h"
#include "vec.h"
#include "walk.h"
#include "p2mfast/p2mfast.h"

#define ACCESS_HEIGHT 3

/* Pages [start, end). */
struct span {
    uint64_t start;
    uint64_t end;
};

/* What walks of batches read of a P2M, made once. They copy it: the compiler then knows that no
 * store to a caller's array changes it. */
struct ground {
    uint64_t *root;
    uint64_t root_mask;
    uint64_t *memory;
    uint64_t frames;  /* of memory, as far as the MMU reaches them */
    uint64_t pointer; /* the valid descriptor that leads to memory's first frame */
};

struct p2mfast {
    struct geometry geometry;
    p2mfast_platform_t platform;
    uint64_t *root; /* first word of the concatenated root tables */
    uint64_t root_frame;
    struct ground ground;
    unsigned vmid;
    const struct vec *vec;

    uint64_t lowest_mapped_gfn; /* P2MFAST_INVALID_GFN while nothing was mapped; never shrink */
    uint64_t max_mapped_gfn;    /* 0 while nothing was mapped */
    uint64_t max_tables;
    uint64_t counted; /* leaves of TYPES_COUNTED that are there */
    void *access;     /* top of what access.h keeps, ACCESS_HEIGHT levels above the bytes */
    bool mem_access;  /* new mappings are pages, and their access is kept */
    p2mfast_stats_t stats;

    /* Odd while one table is broken and made, so that readers try again. */
    uint32_t sequence;

    /* Of the update under way: */
    struct span stale; /* translations that went and are not yet invalidated; empty: none */
    uint64_t retired;  /* head of the chain of unlinked tables, given back after that */
};

/* Build a P2M in place: `p2m` is memory of the caller's, tables come from the platform, whose
 * struct is copied. 0, or a negative enum p2mfast_error. */
int p2m_init(struct p2mfast *p2m, const p2mfast_platform_t *platform,
             const p2mfast_config_t *config);

void p2m_lock(struct p2mfast *p2m);
void p2m_unlock(struct p2mfast *p2m);

/* ---- The door: nothing else stores to a live table. ---- */

enum invalidation {
    INVALIDATE_NOTHING, /* no walk can have cached these words */
    INVALIDATE_LATER,   /* before the call ends and before a table is given back */
    INVALIDATE_NOW,     /* before the words may be made anew */
};

/* Break n words: clear every bit that is not in `keep` (0: the whole word). */
void p2m_break(struct p2mfast *p2m, uint64_t *words, size_t n, uint64_t keep, struct span span,
               enum invalidation invalidation);
/* Make n leaves: first, first + step, ... Published to the table walker. */
void p2m_make(struct p2mfast *p2m, uint64_t *words, size_t n, uint64_t first, uint64_t step);
/* Make one word, a leaf or a pointer. What a pointer leads to is complete before it can be seen. */
static inline void p2m_make_word(struct p2mfast *p2m, uint64_t *word, uint64_t pte)
{
    __atomic_store_n(word, pte, __ATOMIC_RELEASE);
    if (p2m->platform.barrier)
        p2m->platform.barrier(p2m->platform.context);
}

/* The same for a leaf whose rights alone change: no break, and the invalidation of `span` (empty:
 * none is due) can wait until the call ends. */
void p2m_make_rights(struct p2mfast *p2m, uint64_t *word, uint64_t pte, struct span span);

/* Readers that run while one of these is open try again. Calls do not nest. */
void p2m_write_begin(struct p2mfast *p2m);
void p2m_write_end(struct p2mfast *p2m);

/* Invalidate what INVALIDATE_LATER left. */
void p2m_invalidate_stale(struct p2mfast *p2m);
/* Invalidate these pages' translations and count it. */
void p2m_invalidate(struct p2mfast *p2m, struct span span);

/* ---- Tables ---- */

/* NULL: the frame is outside the table memory. */
static inline uint64_t *p2m_table(const struct p2mfast *p2m, uint64_t mfn)
{
    uint64_t frame = mfn - p2m->platform.base_mfn;

    if (frame >= p2m->platform.frames)
        return NULL;
    return p2m->platform.memory + frame * TABLE_WORDS;
}

/* Where a table pointer leads; NULL: outside, the tree is corrupt. */
static inline uint64_t *p2m_next_table(const struct p2mfast *p2m, uint64_t pte)
{
    return p2m_table(p2m, pte_mfn(&p2m->geometry, pte));
}

static inline uint64_t pte_read(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline bool p2m_is_empty(const struct p2mfast *p2m)
{
    return p2m->lowest_mapped_gfn == P2MFAST_INVALID_GFN;
}

static inline struct span p2m_whole(const struct p2mfast *p2m)
{
    return (struct span){0, p2m->geometry.gfn_limit};
}

static inline struct span span_of(uint64_t gfn, uint64_t nr)
{
    return (struct span){gfn, gfn + nr};
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* ---- Readers ---- */

static inline uint32_t p2m_read_begin(const struct p2mfast *p2m)
{
    uint32_t sequence;

    while ((sequence = __atomic_load_n(&p2m->sequence, __ATOMIC_ACQUIRE)) & 1)
        ;
    return sequence;
}

static inline bool p2m_read_retry(const struct p2mfast *p2m, uint32_t sequence)
{
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return __atomic_load_n(&p2m->sequence, __ATOMIC_RELAXED) != sequence;
}

/* Walk to gfn by software; the caller has checked that it is in the space. */
static inline enum walk_outcome p2m_walk(const struct p2mfast *p2m, enum walk_view view,
                                         uint64_t gfn, struct walk *walk)
{
    const struct geometry *geometry = &p2m->geometry;
    const uint64_t *table = p2m->root;
    enum walk_outcome outcome;

    walk_start(geometry, walk, gfn);
    for (;;) {
        outcome = walk_step(geometry, view, walk,
                            pte_read(table + level_index(geometry, walk->level, gfn)));
        if (outcome != WALK_NEXT)
            return outcome;
        table = p2m_table(p2m, walk->table_mfn);
        if (!table) {
            /* The MMU aborts at the level that it cannot read; software stops at the pointer. */
            walk->level -= view == WALK_SOFTWARE;
            return walk_fail(walk, P2MFAST_FAULT_EXTERNAL);
        }
    }
}

/* Go down to the table that is read at `target`; NULL where there is none. */
static inline uint64_t *p2m_descend(const struct p2mfast *p2m, enum walk_view view, uint64_t gfn,
                                    int target, bool *reachable)
{
    const struct geometry *geometry = &p2m->geometry;
    uint64_t *table = p2m->root;
    struct walk walk;

    walk_start(geometry, &walk, gfn);
    while (walk.level < target) {
        uint64_t pte = pte_read(table + level_index(geometry, walk.level, gfn));

        if (walk_step(geometry, view, &walk, pte) != WALK_NEXT)
            return NULL;
        table = p2m_table(p2m, walk.table_mfn);
        if (!table)
            return NULL;
    }
    *reachable = walk.reachable;
    return table;
}

/* ---- Between the core's files ---- */

/* The first of n words from `from` on whose bit 0 is set, or n. Most words of an armed table are
 * passed a mask at a time. */
uint64_t p2m_next_valid(const struct p2mfast *p2m, const uint64_t *words, uint64_t from,
                        uint64_t n);

/* The leaves of a subtree that was unlinked go out of the counts, its tables onto the chain of
 * retired ones (reclaim.c). gfn: first page of the table. */
void p2m_retire_table(struct p2mfast *p2m, uint64_t *table, int level, uint64_t gfn);
/* Give the retired tables back, after the invalidation that may still be due. */
void p2m_release_retired(struct p2mfast *p2m);
/* The leaf `pte`, just read at this level, goes: uncount and report it if its type is counted. */
void p2m_report_removed(struct p2mfast *p2m, uint64_t pte, int level, uint64_t gfn);

#endif
