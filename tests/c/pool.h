/*
 * A platform of a test's own: table memory in static storage, and a check of platform.h's contract
 * in every call. One P2M at a time, built in place over it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_POOL_H
#define TESTS_POOL_H

#include "harness.h"
#include "p2m.h"

#define POOL_FRAMES 64
#define POOL_BASE_MFN UINT64_C(0x9000)
#define POOL_REMOVALS 1024
#define POOL_SIDE_PAGES 32

struct pool_removal {
    uint64_t gfn;
    uint64_t mfn;
    uint64_t nr;
    uint64_t type;
};

struct pool_calls {
    unsigned take_roots;
    unsigned reserve;
    unsigned take;
    unsigned give;
    unsigned barrier;
    unsigned invalidate_tlb;
    unsigned reserve_removed;
    unsigned mapping_removed;
    unsigned lock;
    unsigned unlock;
    unsigned scratch;
    unsigned release_scratch;
};

struct pool {
    /* Set by a test to make the platform refuse. */
    bool refuse_tables;
    bool refuse_removed;
    bool refuse_scratch;
    unsigned side_limit; /* side pages that may still be taken */

    struct pool_calls calls;
    uint64_t in_use; /* frames taken and not given back, the roots not counted */

    /* Removals as runs: what goes on from the report before, in the same call, is merged. */
    struct pool_removal removed[POOL_REMOVALS];
    size_t removals;

    struct span last_invalidation;
};

extern struct pool pool;
extern uint64_t pool_memory[POOL_FRAMES * TABLE_WORDS];

/* Forget the P2M before, fill the memory with rubbish, and give a platform with every call. */
p2mfast_platform_t pool_platform(uint64_t frames);
/* The optional side_page, for a test to add: from static storage, up to pool.side_limit. */
void *pool_side_page(void *context);
/* Build the P2M. The platform may have lost optional calls since. */
struct p2mfast *pool_init(const p2mfast_platform_t *platform, const p2mfast_config_t *config);
/* The two in one: 48 bits of physical address, no quota, all frames. */
struct p2mfast *pool_start(unsigned ipa_bits);
p2mfast_config_t pool_config(unsigned ipa_bits);

/* A test is about to spoil the tables by hand: from now on nothing is compared with what the MMU
 * may have cached. */
void pool_stop_watching(void);

/* p2mfast_check finds nothing, and the frames in use are the P2M's tables. */
#define CHECK_SOUND(p2m) pool_check_sound((p2m), __FILE__, __LINE__)
void pool_check_sound(struct p2mfast *p2m, const char *file, int line);
/* p2mfast_check with the pool's rows; returns the number of findings. */
size_t pool_findings(struct p2mfast *p2m, p2mfast_finding_t *findings, size_t capacity);

/* Remember every byte of the P2M and its tables, and what was asked of the platform. */
void pool_snapshot(const struct p2mfast *p2m);
/* Nothing has changed since, and nothing was taken, given, invalidated or reported. */
#define CHECK_UNCHANGED(p2m) pool_check_unchanged((p2m), __FILE__, __LINE__)
void pool_check_unchanged(const struct p2mfast *p2m, const char *file, int line);

/* The word for gfn in its table of this level, by hand; NULL: there is no such table. */
uint64_t *pool_word(const struct p2mfast *p2m, int level, uint64_t gfn);

/* Shorthands for what the tests ask most. */
uint64_t pool_mfn(const struct p2mfast *p2m, uint64_t gfn);
unsigned pool_order(const struct p2mfast *p2m, uint64_t gfn);
bool pool_reachable(const struct p2mfast *p2m, uint64_t gfn);
p2mfast_stats_t pool_stats(struct p2mfast *p2m);
/* RAM with every right; the order of its superpages by flags. */
int pool_map(struct p2mfast *p2m, uint64_t gfn, uint64_t nr, uint64_t mfn, unsigned flags);
int pool_unmap(struct p2mfast *p2m, uint64_t gfn, uint64_t nr);

#endif
