/*
 * What is measured, where interface.h says it lies.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cpu.h"
#include "monitor.h"
#include "p2m.h"

/* The engine wants room for a last table's runs; with less left, the log is full. */
#define LEAST_ROOM TABLE_WORDS

static struct {
    uint64_t ticks, cycles; /* at the guest's start */
    struct flush_record lost;
} own;

struct report *report(void)
{
    return (struct report *)(monitor_base + REPORT_OFFSET);
}

void report_start(void)
{
    struct report *told = report();

    told->version = INTERFACE_VERSION;
    told->ticks_per_second = READ_REGISTER(cntfrq_el0);
    own.ticks = ticks();
    own.cycles = cycles();
    told->state = STATE_RUNNING;
}

uint64_t report_ticks(void)
{
    return ticks() - own.ticks;
}

uint64_t report_cycles(void)
{
    return cycles() - own.cycles;
}

void report_sums(void)
{
    struct report *told = report();
    const p2mfast_stats_t *stats = &stage2()->stats;

    told->ticks = report_ticks();
    told->cycles = report_cycles();
    told->arms = stats->armed;
    told->tables = stats->tables;
    told->tlb_flushes = stats->tlb_flushes;
    told->stale = stats->resolved;
    for (unsigned i = 0; i <= LEAF_LEVEL; i++) {
        told->mappings[i] = stats->mappings[i];
        told->stale -= stats->resolved_levels[i];
    }
}

void report_end(enum monitor_state state)
{
    report_sums();
    publish();
    report()->state = state;
}

void report_fault(const struct vcpu *vcpu, uint64_t gfn, unsigned level, unsigned what)
{
    struct fault_record *log = (struct fault_record *)(monitor_base + FAULTS_OFFSET);
    uint64_t n = __atomic_fetch_add(&report()->faults, 1, __ATOMIC_RELAXED);

    if (n < FAULTS_MAX)
        log[n] = (struct fault_record){gfn, (uint64_t)vcpu->index << 8 | level << 4 | what};
}

/* The caller holds the lock of flushes, here and below. */
struct flush_record *report_flush(void)
{
    struct flush_record *log = (struct flush_record *)(monitor_base + FLUSHES_OFFSET);
    uint64_t n = report()->flushes;

    return n < FLUSHES_MAX ? &log[n] : &own.lost;
}

uint64_t report_run_room(p2mfast_run_t **runs)
{
    _Static_assert(sizeof(struct run_record) == sizeof(p2mfast_run_t), "one is read as the other");
    uint64_t n = report()->runs;

    *runs = (p2mfast_run_t *)(monitor_base + RUNS_OFFSET) + n;
    return n + LEAST_ROOM <= RUNS_MAX ? RUNS_MAX - n : 0;
}

void report_runs(uint64_t n)
{
    report()->runs += n;
}
