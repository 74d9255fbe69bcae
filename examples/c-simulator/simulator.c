/*
 * A simulator's memory system in small. The machine's RAM is ours, and the stage-2 tables lie in
 * it, where the simulated page walkers find them at their physical addresses. Memory answers after
 * some cycles, so that several walks are under way at once and none may block: each is a
 * p2mfast_walk_t that goes a step further when its descriptor comes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <p2mfast/p2mfast.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RAM_BASE 0x80000000u
#define RAM_BYTES (32u << 20)
#define TABLES_OFFSET (31u << 20) /* the last MiB holds the tables */
#define TABLE_FRAMES 256u
#define GUEST_IPA 0x40000000u
#define GUEST_PAGES 4096u /* 16 MiB */
#define LATENCY 20        /* cycles until memory answers */
#define WALKERS 4
#define ACCESSES 200
#define TLB_ENTRIES 64

struct walker {
    p2mfast_walk_t walk;
    unsigned ready; /* the cycle in which the descriptor comes */
    int access;     /* which one it walks for; -1: idle */
};

struct machine {
    uint64_t *ram;
    p2mfast_t *p2m;
    p2mfast_regime_t regime;
    struct walker walkers[WALKERS];
    p2mfast_tlb_entry_t tlb[TLB_ENTRIES]; /* size 0: empty */
    unsigned cycle;
    unsigned reads;
    unsigned hits;
    unsigned traps;
    unsigned dropped;
};

/* What is to be done for every invalidation, before the engine goes on. */
static void invalidate(void *context, const p2mfast_invalidation_t *invalidation)
{
    struct machine *machine = context;
    uint64_t start = invalidation->gfn << 12;
    uint64_t end = start + (invalidation->nr << 12);

    for (unsigned i = 0; i < TLB_ENTRIES; i++) {
        p2mfast_tlb_entry_t *entry = &machine->tlb[i];

        if (entry->size && entry->ipa < end && start < entry->ipa + entry->size) {
            entry->size = 0;
            machine->dropped++;
        }
    }
}

static const p2mfast_tlb_entry_t *tlb_find(const struct machine *machine, uint64_t ipa)
{
    for (unsigned i = 0; i < TLB_ENTRIES; i++)
        if (ipa - machine->tlb[i].ipa < machine->tlb[i].size)
            return &machine->tlb[i];
    return NULL;
}

/* A walk is over: fill the TLB, or trap to a hypervisor that makes the page reachable again. 1:
 * the access is done, 0: it is to be tried again, -1: it is refused. */
static int finish(struct machine *machine, const p2mfast_walk_t *walk)
{
    const p2mfast_tlb_entry_t *result = &walk->result;

    if (!result->fault) {
        machine->tlb[(result->ipa >> 12) % TLB_ENTRIES] = *result;
        return 1;
    }
    machine->traps++;
    if (result->fault == P2MFAST_FAULT_TRANSLATION &&
        p2mfast_resolve_translation_fault(machine->p2m, walk->ipa >> 12, P2MFAST_DEPTH_PATH, 0) ==
            1)
        return 0;
    return -1;
}

/* The descriptor that a walk waited for has come from memory. Returns whether it goes on. */
static int step(struct machine *machine, p2mfast_walk_t *walk)
{
    uint64_t offset = walk->address - RAM_BASE;

    machine->reads++;
    if (offset >= RAM_BYTES) { /* nothing answers there */
        p2mfast_walk_abort(walk);
        return 0;
    }
    return p2mfast_walk_step(walk, machine->ram[offset / sizeof(uint64_t)]);
}

/* All accesses, up to WALKERS of them under way at once. Returns how many went through. */
static unsigned run(struct machine *machine, const uint64_t *ipas, unsigned n)
{
    unsigned next = 0;
    unsigned busy = 0;
    unsigned done = 0;

    for (unsigned i = 0; i < WALKERS; i++)
        machine->walkers[i].access = -1;
    for (; next < n || busy; machine->cycle++) {
        for (unsigned i = 0; i < WALKERS; i++) {
            struct walker *walker = &machine->walkers[i];
            int more;

            if (walker->access < 0) {
                if (next == n)
                    continue;
                if (tlb_find(machine, ipas[next])) {
                    machine->hits++;
                    done++;
                    next++;
                    continue;
                }
                walker->access = (int)next++;
                busy++;
                more = p2mfast_walk_begin(&walker->walk, &machine->regime, ipas[walker->access],
                                          P2MFAST_READ);
            } else if (machine->cycle < walker->ready) {
                continue;
            } else {
                more = step(machine, &walker->walk);
            }
            if (!more) {
                int outcome = finish(machine, &walker->walk);

                if (!outcome)
                    more = p2mfast_walk_begin(&walker->walk, &machine->regime, ipas[walker->access],
                                              P2MFAST_READ);
                done += outcome == 1;
            }
            if (more) {
                walker->ready = machine->cycle + LATENCY;
            } else {
                walker->access = -1;
                busy--;
            }
        }
    }
    return done;
}

static p2mfast_t *create(struct machine *machine, int *error)
{
    p2mfast_config_t config = P2MFAST_CONFIG_DEFAULT;

    config.pa_bits = 32;
    config.table_memory = (char *)machine->ram + TABLES_OFFSET;
    config.table_frames = TABLE_FRAMES;
    config.table_base_mfn = (RAM_BASE + TABLES_OFFSET) >> 12;
    config.context = machine;
    config.tlb_invalidate = invalidate;
    return p2mfast_create_with_error(&config, error);
}

/* The TLB never says what the engine does not. */
static int tlb_is_right(const struct machine *machine)
{
    for (unsigned i = 0; i < TLB_ENTRIES; i++) {
        const p2mfast_tlb_entry_t *entry = &machine->tlb[i];
        p2mfast_tlb_entry_t now;

        if (entry->size && (p2mfast_translate_block(machine->p2m, entry->ipa, P2MFAST_READ, &now) ||
                            now.fault || memcmp(entry, &now, sizeof(now))))
            return 0;
    }
    return 1;
}

int main(void)
{
    static struct machine machine;
    uint64_t ipas[ACCESSES];
    unsigned done;
    int right;
    int error = 0;

    machine.ram = calloc(1, RAM_BYTES);
    if (machine.ram)
        machine.p2m = create(&machine, &error);
    if (!machine.p2m) {
        fprintf(stderr, "%s\n", machine.ram ? p2mfast_error_words(error) : "no memory");
        free(machine.ram);
        return 1;
    }
    /* The guest's RAM is the machine's, in pages, and nothing of it has been touched yet. */
    error = p2mfast_set_entry(machine.p2m, GUEST_IPA >> 12, GUEST_PAGES, RAM_BASE >> 12,
                              P2MFAST_RAM_RW, P2MFAST_ACCESS_RWX, P2MFAST_MAX_ORDER_0);
    if (!error)
        error = p2mfast_regime(p2mfast_vttbr(machine.p2m), p2mfast_vtcr(machine.p2m), 0,
                               &machine.regime);
    if (!error)
        error = p2mfast_invalidate_root(machine.p2m);
    /* Strided, twice over the same pages, and one access beyond the RAM. */
    for (unsigned i = 0; i < ACCESSES - 1; i++)
        ipas[i] = GUEST_IPA + (uint64_t)(i % 50) * 4096 * 7 + i;
    ipas[ACCESSES - 1] = GUEST_IPA + (uint64_t)GUEST_PAGES * 4096;
    done = error ? 0 : run(&machine, ipas, ACCESSES);
    right = tlb_is_right(&machine);
    printf("%u of %u accesses in %u cycles: %u TLB hits, %u descriptors read, %u traps\n", done,
           ACCESSES, machine.cycle, machine.hits, machine.reads, machine.traps);
    machine.dropped = 0;
    if (!error)
        error = p2mfast_invalidate_root(machine.p2m);
    printf("arming dropped %u TLB entries\n", machine.dropped);
    p2mfast_destroy(machine.p2m);
    free(machine.ram);
    return error || !right || done != ACCESSES - 1 || machine.hits == 0 || machine.dropped == 0 ||
           machine.traps < 51;
}
