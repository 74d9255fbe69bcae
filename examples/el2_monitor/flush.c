/*
 * A flush: which pages, arming them, cleaning them.
 *
 * With flush=harvest, collecting and arming are one step under the engine's lock, and the TLBs have
 * forgotten what was collected before anything is cleaned: a page that another vCPU touches
 * meanwhile faults, and is in the next flush. The other kinds clean first and arm afterwards, as
 * Xen's p2m_flush_vm does: what is touched in between is forgotten. They are here to be measured.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cpu.h"
#include "lock.h"
#include "monitor.h"
#include "p2m.h"

#define WORK_PAGE 10    /* Xen's units of work for a page cleaned */
#define SPARE_RUNS 1024 /* where the log has no room */

/* One flush at a time. Faults of other vCPUs do not wait for it: they need the engine's lock, which
 * is not held while pages are cleaned. */
static struct lock one_at_a_time;

struct flushing {
    struct flush_record *record;
    uint64_t line; /* bytes */
};

/* Where a hypervisor would see to what waits. Interrupts are the guest's here, and none of its vCPU
 * can run before its memory is clean: all there is to do is to count. */
static bool should_yield(void)
{
    return READ_REGISTER(isr_el1) != 0;
}

static void clean_run(struct flushing *flush, const p2mfast_run_t *run)
{
    uint64_t budget = max_u64(parameters()->budget / WORK_PAGE, 1);

    for (uint64_t done = 0; done < run->nr;) {
        uint64_t nr = min_u64(budget, run->nr - done);

        clean_lines((run->mfn + done) << PAGE_SHIFT, (run->mfn + done + nr) << PAGE_SHIFT,
                    flush->line);
        done += nr;
        flush->record->interrupted += should_yield();
    }
    flush->record->pages += run->nr;
}

/* Behind it, the pages are at the point of coherency. */
static void clean(struct flushing *flush, const p2mfast_run_t *runs, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        clean_run(flush, &runs[i]);
    wait_for_maintenance();
}

/* The log of runs is where they are collected; once it is full, they are cleaned from here. */
static uint64_t room_for_runs(p2mfast_run_t **runs, bool *logged)
{
    static p2mfast_run_t spare[SPARE_RUNS];
    uint64_t room = report_run_room(runs);

    *logged = room != 0;
    if (*logged)
        return room;
    *runs = spare;
    return SPARE_RUNS;
}

static void keep_runs(struct flush_record *record, uint64_t n)
{
    report_runs(n);
    record->runs += n;
}

static void harvest(struct flushing *flush)
{
    const p2mfast_run_t *first;
    p2mfast_run_t *runs;
    uint64_t cursor = 0, began = cycles();
    bool logged;
    int more;

    report_run_room(&runs);
    first = runs;
    do {
        size_t n;
        uint64_t room = room_for_runs(&runs, &logged);

        more = p2mfast_harvest(stage2(), &cursor, runs, room, &n);
        flush->record->pieces++;
        if (logged)
            keep_runs(flush->record, n);
        else
            clean(flush, runs, n);
    } while (more == 1);
    flush->record->collect_cycles = cycles() - began;
    MARK(MARK_COLLECTED);
    clean(flush, first, flush->record->runs);
}

static unsigned what_is_skipped(enum flush_policy policy)
{
    switch (policy) {
    case FLUSH_LEAF:
        return P2MFAST_SKIP_LEAF;
    case FLUSH_ALL:
        return P2MFAST_SKIP_NONE;
    default:
        return P2MFAST_SKIP_PATH;
    }
}

static void clean_then_arm(struct flushing *flush)
{
    const struct parameters *told = parameters();
    p2mfast_flush_t state = {0};

    while (!state.done) {
        p2mfast_run_t *runs;
        bool logged;
        uint64_t room = room_for_runs(&runs, &logged), began = cycles();
        size_t n;

        p2mfast_cache_flush_range(stage2(), &state, p2m_whole(stage2()).end,
                                  what_is_skipped(told->flush), told->budget, runs, room, &n);
        flush->record->collect_cycles += cycles() - began;
        flush->record->pieces++;
        if (logged)
            keep_runs(flush->record, n);
        clean(flush, runs, n);
    }
    if (stage2_tracks()) {
        uint64_t began = cycles();

        stage2_arm();
        flush->record->collect_cycles += cycles() - began;
    }
    MARK(MARK_COLLECTED);
}

static void begin(struct flush_record *record, const struct vcpu *vcpu)
{
    struct report *told = report();

    *record = (struct flush_record){
        .vcpu = vcpu->index,
        .cause = vcpu->rules.pending,
        .first_run = told->runs,
        .started = report_ticks(),
        .started_cycles = report_cycles(),
        .faults = __atomic_load_n(&told->faults, __ATOMIC_RELAXED),
    };
    for (unsigned i = 0; i < MAX_VCPUS; i++)
        record->set_ways += __atomic_load_n(&told->vcpu[i].set_ways, __ATOMIC_RELAXED);
}

void flush(struct vcpu *vcpu)
{
    struct flushing flush;

    lock_take(&one_at_a_time);
    flush = (struct flushing){report_flush(), line_bytes()};
    begin(flush.record, vcpu);
    MARK(MARK_FLUSH_BEGINS);
    if (parameters()->flush == FLUSH_HARVEST && stage2_tracks())
        harvest(&flush);
    else
        clean_then_arm(&flush);
    MARK(MARK_CLEANED);
    flush.record->ticks = report_ticks() - flush.record->started;
    flush.record->cycles = report_cycles() - flush.record->started_cycles;
    report()->interrupted += flush.record->interrupted;
    report()->flushes++;
    report_sums();
    lock_give(&one_at_a_time);
}
