/* SPDX-License-Identifier: Apache-2.0 */
#include "pool.h"
#include "tlb.h"

#include <string.h>

/* What a frame holds that nobody has filled: valid, present, and with bits no operation sets, so
 * that a table that was taken as it is and not filled whole is found. */
#define RUBBISH UINT64_C(0xa5c3a5c3a5c3a5c3)

struct pool pool;
_Alignas(TABLE_BYTES * 16) uint64_t pool_memory[POOL_FRAMES * TABLE_WORDS];

/* What the tests do not see. */
static struct {
    struct p2mfast p2m;
    bool taken[POOL_FRAMES];
    uint64_t frames;
    uint64_t next; /* where the search for a free frame begins */
    uint64_t promised;
    uint64_t promised_runs;
    size_t first_removal; /* of the call that runs */
    bool has_lock;
    bool locked;
    bool promises_runs;
    bool watching;
    /* Of the scratch memory */
    uint64_t scratch[4096];
    bool scratch_lent;
    unsigned side_pages; /* taken */
} own;

static struct {
    struct p2mfast p2m;
    struct pool pool;
    uint64_t memory[POOL_FRAMES * TABLE_WORDS];
} snapshot;

static void enter(const void *context)
{
    CHECK(context == &own);
    CHECK(own.locked || !own.has_lock);
}

static void fill_frame(uint64_t frame, uint64_t word)
{
    for (unsigned i = 0; i < TABLE_WORDS; i++)
        pool_memory[frame * TABLE_WORDS + i] = word;
}

/* ---- platform.h ---- */

/* Not at the start of the memory, so that a frame and its place in the tables are not one. */
static uint64_t take_roots(void *context, unsigned count)
{
    CHECK(context == &own);
    CHECK_EQUAL(pool.calls.take_roots++, 0);
    if (2 * count > own.frames)
        return NO_FRAME;
    for (unsigned i = 0; i < count; i++) {
        own.taken[count + i] = true;
        fill_frame(count + i, 0);
    }
    return count;
}

static uint64_t free_frames(void)
{
    uint64_t n = 0;

    for (uint64_t frame = 0; frame < own.frames; frame++)
        n += !own.taken[frame];
    return n;
}

static int reserve(void *context, uint64_t count)
{
    enter(context);
    pool.calls.reserve++;
    if (pool.refuse_tables || count > free_frames())
        return -1;
    own.promised = count;
    return 0;
}

static uint64_t take(void *context, bool zeroed)
{
    enter(context);
    pool.calls.take++;
    if (!CHECK(own.promised > 0) || !CHECK(free_frames() > 0))
        return NO_FRAME;
    own.promised--;
    while (own.taken[own.next])
        own.next = (own.next + 1) % own.frames;
    own.taken[own.next] = true;
    pool.in_use++;
    fill_frame(own.next, zeroed ? 0 : RUBBISH);
    return own.next;
}

static void give(void *context, uint64_t frame)
{
    enter(context);
    pool.calls.give++;
    if (!CHECK(frame < own.frames) || !CHECK(own.taken[frame]))
        return;
    if (own.watching) {
        tlb_observe();
        CHECK(!tlb_knows_frame(frame));
    }
    own.taken[frame] = false;
    pool.in_use--;
    fill_frame(frame, RUBBISH);
}

static void barrier(void *context)
{
    enter(context);
    pool.calls.barrier++;
    if (own.watching)
        tlb_barrier();
}

static void invalidate_tlb(void *context, uint64_t gfn, uint64_t nr)
{
    enter(context);
    pool.calls.invalidate_tlb++;
    pool.last_invalidation = span_of(gfn, nr);
    CHECK(nr > 0 && gfn + nr <= own.p2m.geometry.gfn_limit);
    if (!own.watching)
        return;
    tlb_observe();
    tlb_invalidate(gfn, nr);
    /* What was not broken before comes back at once. */
    tlb_observe();
}

static int reserve_removed(void *context, uint64_t runs)
{
    enter(context);
    pool.calls.reserve_removed++;
    if (pool.refuse_removed)
        return -1;
    own.promised_runs = runs;
    own.promises_runs = true;
    own.first_removal = pool.removals;
    return 0;
}

static void mapping_removed(void *context, uint64_t gfn, uint64_t mfn, uint64_t nr, unsigned type)
{
    struct pool_removal *last = pool.removals ? &pool.removed[pool.removals - 1] : NULL;

    enter(context);
    pool.calls.mapping_removed++;
    CHECK(TYPES_COUNTED >> type & 1);
    if (pool.removals > own.first_removal && last->gfn + last->nr == gfn &&
        last->mfn + last->nr == mfn && last->type == type) {
        last->nr += nr;
        return;
    }
    if (own.p2m.platform.reserve_removed)
        CHECK(own.promises_runs && pool.removals - own.first_removal < own.promised_runs);
    if (CHECK(pool.removals < POOL_REMOVALS))
        pool.removed[pool.removals++] = (struct pool_removal){gfn, mfn, nr, type};
}

static void lock(void *context)
{
    CHECK(context == &own);
    CHECK(!own.locked);
    pool.calls.lock++;
    own.locked = true;
    own.promised = 0;
    own.promises_runs = false;
    own.promised_runs = 0;
    own.first_removal = pool.removals;
}

static void unlock(void *context)
{
    enter(context);
    CHECK(!own.scratch_lent);
    pool.calls.unlock++;
    if (own.watching)
        CHECK(!tlb_is_stale());
    own.locked = false;
}

static void *scratch(void *context, size_t bytes)
{
    enter(context);
    pool.calls.scratch++;
    CHECK(!own.scratch_lent);
    if (pool.refuse_scratch || !CHECK(bytes <= sizeof(own.scratch)))
        return NULL;
    own.scratch_lent = true;
    memset(own.scratch, 0xa5, sizeof(own.scratch));
    return own.scratch;
}

static void release_scratch(void *context, void *memory)
{
    enter(context);
    pool.calls.release_scratch++;
    CHECK(own.scratch_lent && memory == own.scratch);
    own.scratch_lent = false;
}

void *pool_side_page(void *context)
{
    static _Alignas(TABLE_BYTES) unsigned char pages[POOL_SIDE_PAGES][TABLE_BYTES];

    enter(context);
    if (!pool.side_limit || !CHECK(own.side_pages < POOL_SIDE_PAGES))
        return NULL;
    pool.side_limit--;
    return memset(pages[own.side_pages++], 0, TABLE_BYTES);
}

/* ---- Life ---- */

p2mfast_platform_t pool_platform(uint64_t frames)
{
    memset(&pool, 0, sizeof(pool));
    memset(&own, 0, sizeof(own));
    own.frames = frames;
    for (uint64_t frame = 0; frame < POOL_FRAMES; frame++)
        fill_frame(frame, RUBBISH);
    return (p2mfast_platform_t){
        .context = &own,
        .memory = pool_memory,
        .base_mfn = POOL_BASE_MFN,
        .frames = frames,
        .take_roots = take_roots,
        .reserve = reserve,
        .take = take,
        .give = give,
        .barrier = barrier,
        .invalidate_tlb = invalidate_tlb,
        .reserve_removed = reserve_removed,
        .mapping_removed = mapping_removed,
        .lock = lock,
        .unlock = unlock,
        .scratch = scratch,
        .release_scratch = release_scratch,
    };
}

p2mfast_config_t pool_config(unsigned ipa_bits)
{
    p2mfast_config_t config = P2MFAST_CONFIG_DEFAULT;

    config.ipa_bits = ipa_bits;
    return config;
}

struct p2mfast *pool_init(const p2mfast_platform_t *platform, const p2mfast_config_t *config)
{
    /* The core may not count on memory that was cleared for it. */
    memset(&own.p2m, 0xa5, sizeof(own.p2m));
    if (!CHECK_EQUAL(p2m_init(&own.p2m, platform, config), 0))
        return NULL;
    own.has_lock = platform->lock != NULL;
    own.watching = platform->lock && platform->barrier && platform->invalidate_tlb;
    tlb_reset(&own.p2m);
    return &own.p2m;
}

struct p2mfast *pool_start(unsigned ipa_bits)
{
    p2mfast_platform_t platform = pool_platform(POOL_FRAMES);
    p2mfast_config_t config = pool_config(ipa_bits);

    return pool_init(&platform, &config);
}

void pool_stop_watching(void)
{
    own.watching = false;
}

/* ---- Checks ---- */

size_t pool_findings(struct p2mfast *p2m, p2mfast_finding_t *findings, size_t capacity)
{
    uint8_t seen[POOL_FRAMES];

    return p2mfast_check(p2m, seen, own.frames, findings, capacity);
}

void pool_check_sound(struct p2mfast *p2m, const char *file, int line)
{
    p2mfast_finding_t finding = {0, 0, 0, 0};

    /* The kind of the first finding; there is no kind 0. */
    pool_findings(p2m, &finding, 1);
    harness_check_equal((uint64_t)finding.kind, 0, "no finding", file, line);
    harness_check_equal(pool.in_use, p2m->stats.tables, "frames in use == tables", file, line);
    harness_check(pool.calls.lock == pool.calls.unlock, "unlocked", file, line);
}

void pool_snapshot(const struct p2mfast *p2m)
{
    memcpy(&snapshot.p2m, p2m, sizeof(*p2m));
    snapshot.pool = pool;
    memcpy(snapshot.memory, pool_memory, sizeof(pool_memory));
}

void pool_check_unchanged(const struct p2mfast *p2m, const char *file, int line)
{
    harness_check(!memcmp(snapshot.memory, pool_memory, sizeof(pool_memory)), "tables unchanged",
                  file, line);
    harness_check(!memcmp(&snapshot.p2m, p2m, sizeof(*p2m)), "struct p2mfast unchanged", file,
                  line);
    harness_check_equal(pool.in_use, snapshot.pool.in_use, "frames in use", file, line);
    harness_check_equal(pool.calls.take, snapshot.pool.calls.take, "takes", file, line);
    harness_check_equal(pool.calls.give, snapshot.pool.calls.give, "gives", file, line);
    harness_check_equal(pool.calls.invalidate_tlb, snapshot.pool.calls.invalidate_tlb,
                        "invalidations", file, line);
    harness_check_equal(pool.calls.mapping_removed, snapshot.pool.calls.mapping_removed, "removals",
                        file, line);
}

uint64_t *pool_word(const struct p2mfast *p2m, int level, uint64_t gfn)
{
    uint64_t *table = p2m->root;
    int at = p2m->geometry.root_level;

    for (;; at++) {
        uint64_t *word = table + level_index(&p2m->geometry, at, gfn);

        if (at == level)
            return word;
        if (!pte_is_present(&p2m->geometry, *word) || !pte_is_table(*word, at))
            return NULL;
        table = p2m_next_table(p2m, *word);
    }
}

/* ---- Shorthands ---- */

static p2mfast_entry_t entry_of(const struct p2mfast *p2m, uint64_t gfn)
{
    p2mfast_entry_t entry = {0};

    CHECK_EQUAL(p2mfast_get_entry(p2m, gfn, &entry), 0);
    return entry;
}

uint64_t pool_mfn(const struct p2mfast *p2m, uint64_t gfn)
{
    return entry_of(p2m, gfn).mfn;
}

unsigned pool_order(const struct p2mfast *p2m, uint64_t gfn)
{
    return entry_of(p2m, gfn).order;
}

bool pool_reachable(const struct p2mfast *p2m, uint64_t gfn)
{
    return entry_of(p2m, gfn).reachable;
}

p2mfast_stats_t pool_stats(struct p2mfast *p2m)
{
    p2mfast_stats_t stats;

    p2mfast_get_stats(p2m, &stats);
    return stats;
}

int pool_map(struct p2mfast *p2m, uint64_t gfn, uint64_t nr, uint64_t mfn, unsigned flags)
{
    return p2mfast_set_entry(p2m, gfn, nr, mfn, P2MFAST_RAM_RW, P2MFAST_ACCESS_RWX, flags);
}

int pool_unmap(struct p2mfast *p2m, uint64_t gfn, uint64_t nr)
{
    return p2mfast_set_entry(p2m, gfn, nr, P2MFAST_INVALID_MFN, P2MFAST_RAM_RW, P2MFAST_ACCESS_RWX,
                             0);
}
