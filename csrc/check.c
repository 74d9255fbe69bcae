/*
 * Is the tree sound? Every count against what is there, every table reached once and inside the
 * table memory, no bit that no operation sets.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "p2m.h"

struct check {
    const struct p2mfast *p2m;
    uint8_t *seen;
    uint64_t rows;
    p2mfast_finding_t *findings;
    size_t capacity;
    size_t n;
    uint64_t leaves[LEAF_LEVEL + 1];
    uint64_t tables;
    uint64_t counted;
};

static void find(struct check *check, enum p2mfast_finding_kind kind, int level, uint64_t gfn,
                 uint64_t value)
{
    if (check->n < check->capacity)
        check->findings[check->n] = (p2mfast_finding_t){gfn, value, (int32_t)kind, level};
    check->n++;
}

static void check_leaf(struct check *check, uint64_t pte, int level, uint64_t gfn)
{
    const struct p2mfast *p2m = check->p2m;
    uint64_t pages = level_pages(&p2m->geometry, level);

    check->leaves[level]++;
    check->counted += pte_is_counted(pte);
    if (pte_mfn(&p2m->geometry, pte) & (pages - 1))
        find(check, P2MFAST_FINDING_MISALIGNED, level, gfn, pte);
    if (level == LEAF_LEVEL ? !(pte & PTE_TABLE) : level < LEAF_LEVEL - 2)
        find(check, P2MFAST_FINDING_RESERVED, level, gfn, pte);
    if (gfn < p2m->lowest_mapped_gfn || gfn + pages - 1 > p2m->max_mapped_gfn)
        find(check, P2MFAST_FINDING_BOUNDS, level, gfn, pte);
}

static void check_table(struct check *check, const uint64_t *table, int level, uint64_t gfn);

static void check_pointer(struct check *check, uint64_t pte, int level, uint64_t gfn)
{
    const struct p2mfast *p2m = check->p2m;
    uint64_t mfn = pte_mfn(&p2m->geometry, pte);
    uint64_t frame = mfn - p2m->platform.base_mfn;
    uint64_t roots = p2m->root_frame;

    if (frame >= check->rows) {
        find(check, P2MFAST_FINDING_OUTSIDE, level, gfn, mfn);
        return;
    }
    if (check->seen[frame] || frame - roots < p2m->geometry.root_pages) {
        find(check, P2MFAST_FINDING_TABLE_TWICE, level, gfn, mfn);
        return;
    }
    check->seen[frame] = 1;
    check->tables++;
    if ((pte | PTE_VALID | PTE_ADDRESS) != (PTE_TABLE_POINTER | PTE_ADDRESS))
        find(check, P2MFAST_FINDING_RESERVED, level, gfn, pte);
    check_table(check, p2m_next_table(p2m, pte), level + 1, gfn);
}

static void check_table(struct check *check, const uint64_t *table, int level, uint64_t gfn)
{
    const struct geometry *geometry = &check->p2m->geometry;
    uint64_t words = level_words(geometry, level);

    for (uint64_t i = 0; i < words; i++) {
        uint64_t pte = pte_read(&table[i]);
        uint64_t first = gfn + i * level_pages(geometry, level);

        if (!pte)
            continue;
        if (first >= geometry->gfn_limit) {
            find(check, P2MFAST_FINDING_BEYOND, level, first, pte);
            continue;
        }
        if (pte & ~PTE_KNOWN || !pte_is_present(geometry, pte)) {
            find(check, P2MFAST_FINDING_RESERVED, level, first, pte);
            continue;
        }
        if (pte_is_table(pte, level))
            check_pointer(check, pte, level, first);
        else
            check_leaf(check, pte, level, first);
    }
}

size_t p2mfast_check(p2mfast_t *p2m, uint8_t *seen, uint64_t rows, p2mfast_finding_t *findings,
                     size_t capacity)
{
    struct check check = {
        .p2m = p2m, .seen = seen, .rows = rows, .findings = findings, .capacity = capacity};

    for (uint64_t i = 0; i < rows; i++)
        seen[i] = 0;
    p2m_lock(p2m);
    check_table(&check, p2m->root, p2m->geometry.root_level, 0);
    for (int level = 0; level <= LEAF_LEVEL; level++)
        if (p2m->stats.mappings[level] != check.leaves[level])
            find(&check, P2MFAST_FINDING_MAPPINGS, level, 0, check.leaves[level]);
    if (p2m->stats.tables != check.tables)
        find(&check, P2MFAST_FINDING_TABLES, 0, 0, check.tables);
    if (p2m->counted != check.counted)
        find(&check, P2MFAST_FINDING_COUNTED, 0, 0, check.counted);
    p2m_unlock(p2m);
    return check.n;
}
