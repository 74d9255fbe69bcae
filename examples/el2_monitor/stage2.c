/*
 * The engine's platform at EL2 (csrc/platform.h), and the guest's map.
 *
 * Tables come from the end of the monitor's memory. Nothing else is asked of EL2: the walks,
 * updates and the order of break, invalidation and make are the engine's.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "cpu.h"
#include "lock.h"
#include "monitor.h"
#include "p2m.h"

#define IPA_BITS 40
#define PA_BITS 40
#define VMID 1

/* From here on, one invalidation of everything costs less than one a page. */
#define MOST_PAGES_INVALIDATED 64

/* The guest's devices, where QEMU's machine "virt" has them: below RAM, and from 256 GiB on. */
#define GIB_PAGES ((uint64_t)1 << (30 - PAGE_SHIFT))
#define HIGH_DEVICES_GFN (256 * GIB_PAGES)
#define SPACE_PAGES ((uint64_t)1 << (IPA_BITS - PAGE_SHIFT))

static struct {
    struct p2mfast p2m;
    struct lock lock;
    uint64_t fresh;  /* frames from here on were never taken */
    uint64_t free;   /* head of the chain of those that were given back: their first words */
    uint64_t n_free; /* in the chain */
    uint64_t frames;
} own;

/* ---- The platform ---- */

static uint64_t *frame_words(uint64_t frame)
{
    return (uint64_t *)(monitor_base + TABLES_OFFSET) + frame * TABLE_WORDS;
}

static uint64_t zero_frame(uint64_t frame)
{
    __builtin_memset(frame_words(frame), 0, TABLE_BYTES);
    return frame;
}

static uint64_t take_roots(void *context, unsigned count)
{
    (void)context;
    if (count > own.frames)
        return NO_FRAME;
    for (unsigned i = 0; i < count; i++)
        zero_frame(i);
    own.fresh = count;
    return 0;
}

static int reserve(void *context, uint64_t count)
{
    (void)context;
    return count <= own.n_free + (own.frames - own.fresh) ? 0 : -1;
}

static uint64_t take(void *context, bool zeroed)
{
    uint64_t frame = own.free;

    (void)context;
    if (own.n_free) {
        own.free = frame_words(frame)[0];
        own.n_free--;
    } else {
        frame = own.fresh++;
    }
    return zeroed ? zero_frame(frame) : frame;
}

static void give(void *context, uint64_t frame)
{
    (void)context;
    frame_words(frame)[0] = own.free;
    own.free = frame;
    own.n_free++;
}

static void barrier(void *context)
{
    (void)context;
    publish();
}

/* All of the VMID, or page by page: then what combined stages cached of it has to go as well, for
 * which there is nothing finer than all of stage 1 (Arm ARM DDI 0487, D8.14, TLB maintenance). */
static void invalidate_tlb(void *context, uint64_t gfn, uint64_t nr)
{
    (void)context;
    if (parameters()->options & OPTION_NO_TLBI)
        return;
    publish();
    if (nr > MOST_PAGES_INVALIDATED) {
        __asm__ volatile("tlbi vmalls12e1is" ::: "memory");
    } else {
        for (uint64_t i = 0; i < nr; i++)
            __asm__ volatile("tlbi ipas2e1is, %0" ::"r"(gfn + i) : "memory");
        wait_for_maintenance();
        __asm__ volatile("tlbi vmalle1is" ::: "memory");
    }
    wait_for_maintenance();
    isb();
}

static void take_lock(void *context)
{
    (void)context;
    lock_take(&own.lock);
}

static void give_lock(void *context)
{
    (void)context;
    lock_give(&own.lock);
}

/* ---- The map ---- */

static void map(uint64_t gfn, uint64_t nr, enum p2mfast_type type, unsigned flags)
{
    int error = nr ? p2mfast_set_entry(&own.p2m, gfn, nr, gfn, type, P2MFAST_ACCESS_RWX, flags) : 0;

    if (error)
        monitor_panic(0, gfn, (uint64_t)error);
}

static unsigned ram_flags(const struct parameters *told)
{
    unsigned flags = told->arm == ARM_MAP ? P2MFAST_ARMED : 0;

    if (told->page_order < 9)
        flags |= P2MFAST_MAX_ORDER_0;
    else if (told->page_order < 18)
        flags |= P2MFAST_MAX_ORDER_9;
    return flags;
}

void stage2_create(void)
{
    const struct parameters *told = parameters();
    p2mfast_config_t config = P2MFAST_CONFIG_DEFAULT;
    uint64_t tables = (uint64_t)(monitor_base + TABLES_OFFSET);
    uint64_t rom_gfn = told->rom_base >> PAGE_SHIFT;
    uint64_t began;

    own.frames = (RAM_BASE + told->memory - tables) / TABLE_BYTES;
    config.ipa_bits = IPA_BITS;
    config.pa_bits = PA_BITS;
    config.vmid = VMID;
    if (p2m_init(&own.p2m,
                 &(p2mfast_platform_t){.memory = frame_words(0),
                                       .base_mfn = tables >> PAGE_SHIFT,
                                       .frames = own.frames,
                                       .take_roots = take_roots,
                                       .reserve = reserve,
                                       .take = take,
                                       .give = give,
                                       .barrier = barrier,
                                       .invalidate_tlb = invalidate_tlb,
                                       .lock = take_lock,
                                       .unlock = give_lock},
                 &config))
        monitor_panic(0, tables, own.frames);
    map(0, RAM_BASE >> PAGE_SHIFT, P2MFAST_MMIO_DIRECT_DEV, 0);
    map(HIGH_DEVICES_GFN, SPACE_PAGES - HIGH_DEVICES_GFN, P2MFAST_MMIO_DIRECT_DEV, 0);
    /* Device memory is never executed; the flash that firmware runs from is. */
    map(rom_gfn, told->rom_bytes >> PAGE_SHIFT, P2MFAST_RAM_RW, ram_flags(told));
    began = cycles();
    map(RAM_BASE >> PAGE_SHIFT, told->guest_bytes >> PAGE_SHIFT, P2MFAST_RAM_RW, ram_flags(told));
    report()->map_cycles = cycles() - began;
    if (stage2_tracks() && told->arm != ARM_FIRST_SET_WAY)
        stage2_arm();
}

/* ---- For the others ---- */

struct p2mfast *stage2(void)
{
    return &own.p2m;
}

void stage2_enter(void)
{
    WRITE_REGISTER(vtcr_el2, p2mfast_vtcr(&own.p2m));
    WRITE_REGISTER(vttbr_el2, p2mfast_vttbr(&own.p2m));
    isb();
    /* What a core has cached from before its reset is nothing to rely on. */
    __asm__ volatile("tlbi vmalls12e1" ::: "memory");
    wait_for_maintenance();
    isb();
}

void stage2_arm(void)
{
    uint64_t began = cycles();

    p2mfast_invalidate_root(&own.p2m);
    if (!report()->arm_cycles)
        report()->arm_cycles = cycles() - began;
}

bool stage2_tracks(void)
{
    return parameters()->arm != ARM_NEVER && !parameters()->iommu_shared;
}
