/*
 * The judge: see oracle.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "oracle.h"
#include "tracker.h"
#include "../../examples/el2_monitor/interface.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINES_A_PAGE 64  /* of 64 bytes, as the cores under QEMU have them */
#define LEAST_ROOM 512   /* with less in its log of runs, the monitor logs no more of them */
#define FIRST_MISSED 16  /* that are named */
#define ROOM_AT_FIRST 64 /* judgements */

/* ---- Instructions (Arm ARM DDI 0487, C5 and C6.2, HINT) ---- */

#define HINT(n) (0xd503201fu | (uint32_t)(n) << 5)
#define RT_MASK 0x1fu
#define DC_CIVAC 0xd50b7e20u
#define TLBI_MASK 0xfff8f000u /* SYS, of any op1, CRm and op2 */
#define TLBI 0xd5088000u

enum monitor_instruction oracle_decode(uint32_t word)
{
    switch (word) {
    case HINT(MARK_GUEST_STARTS):
        return MONITOR_STARTS;
    case HINT(MARK_FLUSH_BEGINS):
        return MONITOR_BEGINS;
    case HINT(MARK_COLLECTED):
        return MONITOR_COLLECTED;
    case HINT(MARK_CLEANED):
        return MONITOR_CLEANED;
    default:
        if ((word & ~RT_MASK) == DC_CIVAC)
            return MONITOR_CLEAN;
        return (word & TLBI_MASK) == TLBI ? MONITOR_INVALIDATE : MONITOR_OTHER;
    }
}

/* ---- Pages ---- */

/* Of an epoch, from one invalidation to the next; two of them are in a byte, since an epoch begins
 * before the last one is judged. */
#define TOUCHED 1u
#define WRITTEN 2u        /* before the flush began */
#define WRITTEN_IN_IT 4u  /* and before its invalidation */
#define WRITTEN_MIDWAY 8u /* after the first of several invalidations, before the last */
#define EPOCH_BITS 4
#define EPOCH_MASK ((1u << EPOCH_BITS) - 1)

/* Of a page, for one judgement. */
#define IN_RUNS 1u
#define WALKED 2u  /* resolved for a walk of the guest's own tables, which no callback shows */
#define ABORTED 4u /* resolved for an access, which may not have been tried again yet */

struct judgement {
    uint64_t vcpu, cause, pages;
    uint64_t logged;           /* pages of its runs */
    uint64_t elsewhere;        /* of these, beyond the guest's RAM */
    uint64_t written, touched; /* since the last one, in all of RAM */
    uint64_t missed, ambiguous;
    uint64_t walked, aborted, untouched; /* pages of its runs that nobody was seen to touch */
    uint64_t missed_gfns[FIRST_MISSED];
    uint64_t lines; /* cleaned; until it has ended: by all before it */
    uint64_t invalidations;
    bool runs_logged, faults_logged; /* there was room for all */
    struct oracle_counts counts;
};

struct oracle_pages oracle_pages;

/* Of a page that is written while a flush goes on that cleans before it arms. */
struct writing {
    uint64_t from, to; /* lines cleaned when its last block began, and when it was seen */
    uint64_t place;    /* of the page among those that the flush cleans */
};

static struct {
    const uint8_t *monitor;
    uint64_t base_gfn, n_pages;
    pthread_mutex_t mutex; /* of marks; a monitor that is as it should be has one flush at a time */
    unsigned epoch;
    uint8_t *told; /* a page: IN_RUNS... */
    struct writing *writings;
    bool started;
    uint64_t before; /* instructions of the monitor before the guest's start */
    enum { CLOSED, BEGUN, COLLECTED } stage; /* of a flush: the marks that were seen */
    uint64_t disorder;                       /* marks that come where they should not */
    struct judgement now;
    const struct flush_record *record;
    uint64_t faults_last, faults_begin; /* in the log when the last flush, and this one, began */
    struct judgement *judgements;
    size_t n, room;
} oracle = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static uint8_t flags_of(unsigned epoch, unsigned flags)
{
    return (uint8_t)(flags << (epoch & 1) * EPOCH_BITS);
}

/* From now on accesses are seen so. */
static void accesses_are(unsigned epoch, unsigned written)
{
    __atomic_store_n(&oracle_pages.read, flags_of(epoch, TOUCHED), __ATOMIC_SEQ_CST);
    __atomic_store_n(&oracle_pages.written, flags_of(epoch, TOUCHED | written), __ATOMIC_SEQ_CST);
}

/* What is written from now on is the next flush's. */
static void next_epoch(void)
{
    accesses_are(oracle.epoch + 1, WRITTEN);
    __atomic_store_n(&oracle_pages.flushing, false, __ATOMIC_SEQ_CST);
}

/* Take an epoch's flags of a page away, and return them. */
static unsigned take_flags(uint64_t page, unsigned epoch)
{
    uint8_t mask = flags_of(epoch, EPOCH_MASK);
    uint8_t *flags = &oracle_pages.flags[page];

    if (!(__atomic_load_n(flags, __ATOMIC_RELAXED) & mask))
        return 0;
    return (__atomic_fetch_and(flags, (uint8_t)~mask, __ATOMIC_RELAXED) & mask) >>
           (epoch & 1) * EPOCH_BITS;
}

static void add_flags(uint64_t page, unsigned epoch, unsigned flags)
{
    __atomic_fetch_or(&oracle_pages.flags[page], flags_of(epoch, flags), __ATOMIC_RELAXED);
}

static bool has_page(uint64_t gfn, uint64_t *page)
{
    *page = gfn - oracle.base_gfn;
    return *page < oracle.n_pages;
}

/* ---- The monitor's memory ---- */

static const struct parameters *parameters(void)
{
    return (const struct parameters *)(oracle.monitor + PARAMETERS_OFFSET);
}

static const struct report *report(void)
{
    return (const struct report *)(oracle.monitor + REPORT_OFFSET);
}

static const struct flush_record *flush_record(uint64_t n)
{
    return (const struct flush_record *)(oracle.monitor + FLUSHES_OFFSET) + n;
}

static const struct run_record *run_record(uint64_t n)
{
    return (const struct run_record *)(oracle.monitor + RUNS_OFFSET) + n;
}

static const struct fault_record *fault_record(uint64_t n)
{
    return (const struct fault_record *)(oracle.monitor + FAULTS_OFFSET) + n;
}

static uint64_t faults_logged(void)
{
    uint64_t n = __atomic_load_n(&report()->faults, __ATOMIC_RELAXED);

    return n < FAULTS_MAX ? n : FAULTS_MAX;
}

/* It is to clean when it has collected and armed; else it cleans first. */
static bool arms_first(void)
{
    const struct parameters *told = parameters();

    return told->flush == FLUSH_HARVEST && told->arm != ARM_NEVER && !told->iommu_shared;
}

/* ---- Judging ---- */

static void mark_runs(struct judgement *now, const struct flush_record *record)
{
    for (uint64_t i = 0; i < record->runs; i++) {
        const struct run_record *run = run_record(record->first_run + i);

        now->logged += run->nr;
        for (uint64_t at = 0, page; at < run->nr; at++) {
            if (!has_page(run->gfn + at, &page)) {
                now->elsewhere++;
                continue;
            }
            oracle.told[page] |= IN_RUNS;
            oracle.writings[page].place = now->logged - run->nr + at;
        }
    }
}

static void miss(struct judgement *now, uint64_t page)
{
    if (now->missed < FIRST_MISSED)
        now->missed_gfns[now->missed] = oracle.base_gfn + page;
    now->missed++;
}

enum when { BEFORE_CLEANING, PERHAPS_BEFORE, AFTER_CLEANING };

/* When was a page of the runs, written since the flush began, last written? */
static enum when last_written(uint64_t page, unsigned flags)
{
    const struct writing *writing = &oracle.writings[page];
    uint64_t first = oracle.now.lines + writing->place * LINES_A_PAGE;

    if (flags & WRITTEN_MIDWAY)
        return PERHAPS_BEFORE;
    if (writing->to <= first) /* always, if it arms first */
        return BEFORE_CLEANING;
    return writing->from >= first + LINES_A_PAGE ? AFTER_CLEANING : PERHAPS_BEFORE;
}

static void judge_page(struct judgement *now, uint64_t page)
{
    unsigned flags = take_flags(page, oracle.epoch);
    unsigned late = flags & (WRITTEN_IN_IT | WRITTEN_MIDWAY);
    bool in_runs = oracle.told[page] & IN_RUNS;
    enum when when = AFTER_CLEANING;

    now->touched += (flags & TOUCHED) != 0;
    now->written += (flags & (WRITTEN | late)) != 0;
    if (flags & WRITTEN && !in_runs)
        miss(now, page);
    if (late && in_runs)
        when = last_written(page, flags);
    now->ambiguous += when == PERHAPS_BEFORE;
    if (late && when == AFTER_CLEANING) /* owed by the next */
        add_flags(page, oracle.epoch + 1, TOUCHED | WRITTEN);
    if (flags & TOUCHED)
        oracle.told[page] &= (uint8_t)~IN_RUNS; /* what stays is to be explained */
}

/* In this order: pages that are written meanwhile are of the next epoch. */
static void judge_writes(void)
{
    struct judgement *now = &oracle.now;

    if (!now->invalidations)
        next_epoch();
    now->runs_logged = report()->runs + LEAST_ROOM <= RUNS_MAX && report()->flushes < FLUSHES_MAX;
    if (now->runs_logged)
        mark_runs(now, oracle.record);
    for (uint64_t page = 0; page < oracle.n_pages; page++)
        judge_page(now, page);
    if (!now->runs_logged)
        now->missed = 0;
    oracle.epoch++;
}

/* Faults since the last flush began: they explain pages that nobody was seen to touch. */
static void mark_faults(struct judgement *now)
{
    now->faults_logged = report()->faults <= FAULTS_MAX;
    for (uint64_t i = oracle.faults_last, page; i < faults_logged(); i++) {
        const struct fault_record *fault = fault_record(i);

        if (has_page(fault->gfn, &page))
            oracle.told[page] |= fault->what & FAULT_STAGE1_WALK ? WALKED : ABORTED;
    }
    oracle.faults_last = oracle.faults_begin;
}

static void judge_touches(void)
{
    struct judgement *now = &oracle.now;

    mark_faults(now);
    for (uint64_t page = 0; page < oracle.n_pages; page++) {
        unsigned told = oracle.told[page];

        if (!(told & IN_RUNS))
            continue;
        now->walked += (told & WALKED) != 0;
        now->aborted += (told & (WALKED | ABORTED)) == ABORTED;
        now->untouched += told == IN_RUNS;
    }
    memset(oracle.told, 0, oracle.n_pages);
}

static void keep(void)
{
    if (oracle.n == oracle.room) {
        oracle.room = oracle.room ? 2 * oracle.room : ROOM_AT_FIRST;
        oracle.judgements = realloc(oracle.judgements, oracle.room * sizeof(oracle.judgements[0]));
        if (!oracle.judgements)
            recorder_fail("out of memory");
    }
    oracle.judgements[oracle.n++] = oracle.now;
}

/* ---- Marks ---- */

static void begin(unsigned vcpu)
{
    uint64_t n = report()->flushes;

    oracle.stage = BEGUN;
    oracle.record = flush_record(n < FLUSHES_MAX ? n : 0);
    oracle.now = (struct judgement){.vcpu = vcpu, .lines = oracle_lines()};
    oracle.faults_begin = faults_logged();
    memset(oracle.writings, 0, oracle.n_pages * sizeof(oracle.writings[0]));
    __atomic_store_n(&oracle_pages.flushing, true, __ATOMIC_SEQ_CST);
    accesses_are(oracle.epoch, WRITTEN_IN_IT);
}

static void collected(void)
{
    judge_writes();
    if (arms_first())
        oracle.now.lines = oracle_lines(); /* what was cleaned before is too early */
    oracle.stage = COLLECTED;
}

static void cleaned(struct oracle_counts counts)
{
    struct judgement *now = &oracle.now;

    now->cause = oracle.record->cause;
    now->pages = oracle.record->pages;
    now->lines = oracle_lines() - now->lines;
    now->counts = counts;
    judge_touches();
    keep();
    oracle.stage = CLOSED;
}

static bool is_flushing(unsigned vcpu)
{
    return oracle.stage != CLOSED && oracle.now.vcpu == vcpu;
}

void oracle_mark(unsigned vcpu, enum monitor_instruction mark, struct oracle_counts counts)
{
    pthread_mutex_lock(&oracle.mutex);
    if (mark == MONITOR_STARTS && !oracle.started) {
        oracle.started = true;
        oracle.before = counts.monitor;
    } else if (mark == MONITOR_BEGINS && oracle.started && oracle.stage == CLOSED) {
        begin(vcpu);
    } else if (mark == MONITOR_COLLECTED && oracle.stage == BEGUN && is_flushing(vcpu)) {
        collected();
    } else if (mark == MONITOR_CLEANED && oracle.stage == COLLECTED && is_flushing(vcpu)) {
        cleaned(counts);
    } else {
        oracle.disorder++;
    }
    pthread_mutex_unlock(&oracle.mutex);
}

void oracle_clean(unsigned vcpu)
{
    pthread_mutex_lock(&oracle.mutex);
    if (is_flushing(vcpu))
        __atomic_store_n(&oracle_pages.lines, oracle_pages.lines + 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&oracle.mutex);
}

/* Raise it: others may do so at the same time. */
static void raise_to(uint64_t *at, uint64_t value)
{
    uint64_t old = __atomic_load_n(at, __ATOMIC_RELAXED);

    while (old < value &&
           !__atomic_compare_exchange_n(at, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        continue;
}

void oracle_written_in_flush(uint64_t page, uint64_t lines)
{
    raise_to(&oracle.writings[page].from, lines);
    raise_to(&oracle.writings[page].to, oracle_lines());
}

/* There was another invalidation before: what was written since then may have been collected before
 * or after that. */
static void invalidated_again(void)
{
    for (uint64_t page = 0; page < oracle.n_pages; page++) {
        unsigned flags = take_flags(page, oracle.epoch + 1);

        if (flags)
            add_flags(page, oracle.epoch, flags & WRITTEN ? TOUCHED | WRITTEN_MIDWAY : TOUCHED);
    }
}

void oracle_invalidated(unsigned vcpu)
{
    pthread_mutex_lock(&oracle.mutex);
    if (oracle.stage == BEGUN && is_flushing(vcpu)) {
        if (oracle.now.invalidations++)
            invalidated_again();
        else
            next_epoch();
    }
    pthread_mutex_unlock(&oracle.mutex);
}

/* ---- Life ---- */

void oracle_init(uint64_t base_gfn, uint64_t pages)
{
    oracle.base_gfn = base_gfn;
    oracle.n_pages = pages;
    oracle.told = calloc(pages, 1);
    oracle.writings = calloc(pages, sizeof(oracle.writings[0]));
    oracle_pages.flags = calloc(pages, 1);
    if (!oracle.told || !oracle.writings || !oracle_pages.flags)
        recorder_fail("out of memory");
    accesses_are(oracle.epoch, WRITTEN);
}

void oracle_see(const uint8_t *monitor)
{
    oracle.monitor = monitor;
}

/* ---- The file ---- */

static void number(FILE *file, const char *name, uint64_t value)
{
    fprintf(file, "\"%s\": %" PRIu64 ", ", name, value);
}

static void write_counts(FILE *file, const struct oracle_counts *counts)
{
    number(file, "guest_instructions", counts->guest);
    number(file, "monitor_instructions", counts->monitor - oracle.before);
    number(file, "zeroings", counts->zeroings);
    number(file, "unresolved", counts->unresolved);
}

static void write_sums(FILE *file, const struct judgement *at)
{
    number(file, "pages", at->pages);
    number(file, "written", at->written);
    number(file, "touched", at->touched);
    number(file, "missed", at->missed);
    number(file, "ambiguous", at->ambiguous);
    number(file, "walked", at->walked);
    number(file, "aborted", at->aborted);
    number(file, "untouched", at->untouched);
    number(file, "elsewhere", at->elsewhere);
    number(file, "civac", at->lines);
}

static void write_judgement(FILE *file, const struct judgement *at)
{
    fputs("  {", file);
    number(file, "vcpu", at->vcpu);
    number(file, "cause", at->cause);
    write_sums(file, at);
    number(file, "logged", at->logged);
    number(file, "invalidations", at->invalidations);
    write_counts(file, &at->counts);
    fprintf(file, "\"runs_logged\": %s, \"faults_logged\": %s, \"missed_gfns\": [",
            at->runs_logged ? "true" : "false", at->faults_logged ? "true" : "false");
    for (uint64_t i = 0; i < at->missed && i < FIRST_MISSED; i++)
        fprintf(file, "%s%" PRIu64, i ? ", " : "", at->missed_gfns[i]);
    fputs("]}", file);
}

static bool is_clean(const struct judgement *at)
{
    return at->lines == at->pages * LINES_A_PAGE;
}

void oracle_write(const char *path, struct oracle_counts counts)
{
    struct judgement sum = {0};
    uint64_t not_clean = 0, unjudged = 0;
    FILE *file = fopen(path, "w");

    if (!file)
        recorder_fail("%s cannot be written", path);
    fputs("{\"flushes\": [", file);
    for (size_t i = 0; i < oracle.n; i++) {
        const struct judgement *at = &oracle.judgements[i];

        fputs(i ? ",\n" : "\n", file);
        write_judgement(file, at);
        sum.pages += at->pages;
        sum.written += at->written;
        sum.touched += at->touched;
        sum.missed += at->missed;
        sum.ambiguous += at->ambiguous;
        sum.walked += at->walked;
        sum.aborted += at->aborted;
        sum.untouched += at->untouched;
        sum.elsewhere += at->elsewhere;
        sum.lines += at->lines;
        not_clean += !is_clean(at);
        unjudged += !at->runs_logged;
    }
    fputs("],\n \"totals\": {", file);
    write_sums(file, &sum);
    write_counts(file, &counts);
    number(file, "not_clean", not_clean);
    number(file, "unjudged", unjudged);
    number(file, "disorder", oracle.disorder);
    fprintf(file, "\"flushes\": %zu}}\n", oracle.n);
    if (ferror(file) || fclose(file))
        recorder_fail("%s cannot be written", path);
}
