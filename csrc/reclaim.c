/*
 * Reclaim: tables that were unlinked go back to the platform; relinquish removes every leaf
 * (Xen's p2m_free_subtree and relinquish_p2m_mapping).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "access.h"
#include "p2m.h"

void p2m_report_removed(struct p2mfast *p2m, uint64_t pte, int level, uint64_t gfn)
{
    if (!pte_is_counted(pte))
        return;
    p2m->counted--;
    if (p2m->platform.mapping_removed)
        p2m->platform.mapping_removed(p2m->platform.context, gfn, pte_mfn(&p2m->geometry, pte),
                                      level_pages(&p2m->geometry, level), pte_type(pte));
}

/* The chain runs through word 0 of each retired table. The word holds the next frame + 1 where a
 * descriptor has its address, with type and bit 0 clear: to a walker that comes late it is a hole.
 */
static void push_retired(struct p2mfast *p2m, uint64_t *table)
{
    __atomic_store_n(&table[0], (p2m->retired + 1) << PAGE_SHIFT, __ATOMIC_RELAXED);
    p2m->retired = (uint64_t)(table - p2m->platform.memory) / TABLE_WORDS;
    __atomic_store_n(&p2m->stats.tables, p2m->stats.tables - 1, __ATOMIC_RELAXED);
}

void p2m_retire_table(struct p2mfast *p2m, uint64_t *table, int level, uint64_t gfn)
{
    const struct geometry *geometry = &p2m->geometry;
    uint64_t any;

    if (!table) /* the pointer led outside: nothing of ours is lost */
        return;
    if (level == LEAF_LEVEL && !p2m->counted) {
        p2m->stats.mappings[level] -=
            p2m->vec->count(table, TABLE_WORDS, geometry->type_mask, &any);
        push_retired(p2m, table);
        return;
    }
    for (unsigned i = 0; i < TABLE_WORDS; i++) {
        uint64_t pte = pte_read(&table[i]);
        uint64_t first = gfn + i * level_pages(geometry, level);

        if (!pte_is_present(geometry, pte))
            continue;
        if (pte_is_table(pte, level)) {
            p2m_retire_table(p2m, p2m_next_table(p2m, pte), level + 1, first);
            continue;
        }
        p2m->stats.mappings[level]--;
        p2m_report_removed(p2m, pte, level, first);
    }
    push_retired(p2m, table);
}

void p2m_release_retired(struct p2mfast *p2m)
{
    p2m_invalidate_stale(p2m);
    while (p2m->retired != NO_FRAME) {
        uint64_t frame = p2m->retired;

        p2m->retired = (p2m->platform.memory[frame * TABLE_WORDS] >> PAGE_SHIFT) - 1;
        p2m->platform.give(p2m->platform.context, frame);
    }
}

/* Remove the leaf at gfn and those that follow it in its table, `most` at the most, up to end.
 * Returns how many entries (or holes above the last level: one) were passed. */
static uint64_t remove_leaves(struct p2mfast *p2m, uint64_t *gfn, uint64_t end, uint64_t most)
{
    const struct geometry *geometry = &p2m->geometry;
    struct walk walk;
    enum walk_outcome outcome = p2m_walk(p2m, WALK_SOFTWARE, *gfn, &walk);
    unsigned order = level_order(geometry, walk.level);
    uint64_t start = align_down(*gfn, order);
    uint64_t *table =
        walk.level == geometry->root_level ? p2m->root : p2m_table(p2m, walk.table_mfn);
    uint64_t *words;
    uint64_t n = 1;
    uint64_t any;

    if (walk.level == LEAF_LEVEL)
        n = min_u64(min_u64(most, end - start),
                    next_boundary(start, level_order(geometry, LEAF_LEVEL - 1)) - start);
    *gfn = start + (n << order);
    if (outcome != WALK_LEAF && walk.level != LEAF_LEVEL)
        return 1;
    words = table + level_index(geometry, walk.level, start);
    access_set(p2m, start, n << order, P2MFAST_ACCESS_RWX);
    p2m->stats.mappings[walk.level] -= p2m->vec->count(words, n, geometry->type_mask, &any);
    for (uint64_t i = 0; p2m->counted && i < n; i++)
        p2m_report_removed(p2m, words[i], walk.level, start + (i << order));
    p2m_write_begin(p2m);
    p2m_break(p2m, words, n, 0, span_of(start, n << order),
              any & PTE_VALID ? INVALIDATE_LATER : INVALIDATE_NOTHING);
    p2m_write_end(p2m);
    return n;
}

int p2mfast_relinquish(p2mfast_t *p2m, uint64_t budget)
{
    uint64_t left = max_u64(budget, 1);
    uint64_t gfn;
    uint64_t end;
    bool done;

    p2m_lock(p2m);
    if (p2m->counted && p2m->platform.reserve_removed &&
        p2m->platform.reserve_removed(p2m->platform.context, p2m->counted)) {
        p2m_unlock(p2m);
        return P2MFAST_ERROR_MEMORY;
    }
    gfn = p2m->lowest_mapped_gfn;
    end = p2m->max_mapped_gfn + 1;
    while (gfn < end && left)
        left -= remove_leaves(p2m, &gfn, end, left);
    __atomic_store_n(&p2m->lowest_mapped_gfn, gfn, __ATOMIC_RELAXED);
    done = gfn >= end;
    p2m_invalidate_stale(p2m);
    p2m_unlock(p2m);
    return done ? 0 : 1;
}
