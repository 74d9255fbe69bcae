/*
 * A plugin for QEMU's TCG that records a guest as p2mfast replays it: the pages of RAM it touches,
 * its Set/Way operations, the writes of its VM registers, its vCPUs that go off and on.
 *
 * The engine is in it, live: a page's first touch is a stage-2 fault that it resolves, and what was
 * touched is what it harvests, when a hypervisor would flush.
 *
 *     -plugin recorder.so,out=FILE,bits=32,base=0x40000000,size=0x20000000,monitor=SOCKET
 *
 * RAM has to be one memory backend that is shared (memory-backend-memfd, or memory-backend-file
 * with share=on), so that a translation block's host address tells its physical one.
 *
 * A guest may have the monitor of examples/el2_monitor below it: with el2=ADDRESS, what lies from
 * there to the end of RAM is the monitor's and no part of the recording, and oracle=FILE has the
 * monitor's flushes judged (oracle.h).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "decode.h"
#include "monitor.h"
#include "oracle.h"
#include "qemu_api.h"
#include "ram.h"
#include "timeline.h"
#include "tracker.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CACHES_ON 5u /* SCTLR.M and .C */
#define STATUS_FAILED 3
#define CACHE_LINE 64
#define PAGE_SIZE ((uint64_t)1 << PAGE_SHIFT)

/* What the next translation block of a vCPU has to look at first. */
enum after { AFTER_NOTHING, AFTER_SCTLR, AFTER_CALL };

struct vcpu {
    _Alignas(CACHE_LINE) struct tlb tlb;
    uint64_t instructions; /* of the blocks it has begun */
    uint64_t monitor_instructions;
    uint64_t block, block_va; /* the guest's last: its word (pack_block) and address */
    uint64_t lines;           /* that the monitor had cleaned when that block began */
    bool left;                /* it, for the monitor */
    bool invalidating;        /* in the monitor: its last block ended with a TLBI */
    uint64_t zeroings;
    uint64_t unresolved;
    size_t batch; /* the timeline's entry of its Set/Way batch, while it is trapped */
    enum after after;
    struct instruction sctlr; /* the last write of it */
    bool caches_on;
    bool trapped; /* its VM registers, since a Set/Way operation: HCR_EL2.TVM */
};

static struct {
    const char *out, *monitor, *oracle;
    unsigned bits, n_vcpus;
    uint64_t base, size;
    uint64_t el2;   /* where the monitor at EL2 has its memory, to the end of RAM, or 0 */
    uint64_t guest; /* bytes of RAM below it */
    bool check;
    const uint8_t *host; /* where RAM lies in this process; found when the first block is */
    struct vcpu *vcpus;
    struct tracker tracker;
    struct timeline timeline; /* under the tracker's mutex */
} recorder;

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

void recorder_fail(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    fputs("recorder: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    _exit(STATUS_FAILED);
}

/* ---- What goes along with a callback: a word, no memory ---- */

static unsigned field(uint64_t word, unsigned from, unsigned bits)
{
    return word >> from & ((1u << bits) - 1);
}

/* A translation block: its instructions, its pages (a block has two at most), and whether it lies
 * at its physical address, as it does with the MMU off. */
#define BLOCK_COUNT_BITS 10
#define BLOCK_IDENTITY ((uint64_t)1 << 63)

/* In the address of a block of AArch32: not all of its instructions have four bytes. */
#define BLOCK_MIXED ((uint64_t)1 << 63)

static void *pack_block(size_t instructions, uint64_t first, uint64_t second, bool identity)
{
    uint64_t word = instructions | first << BLOCK_COUNT_BITS |
                    second << (BLOCK_COUNT_BITS + PAGE_BITS) | (identity ? BLOCK_IDENTITY : 0);

    return (void *)(uintptr_t)word;
}

/* An instruction of interest: its kind, Rt, the instructions from it to its block's end. */
#define INSTRUCTION_KIND_BITS 4
#define INSTRUCTION_RT_BITS 5
#define INSTRUCTION_CONDITION_BITS 4
#define INSTRUCTION_CONDITION_FROM (INSTRUCTION_KIND_BITS + INSTRUCTION_RT_BITS)
#define INSTRUCTION_REST_FROM (INSTRUCTION_CONDITION_FROM + INSTRUCTION_CONDITION_BITS)

static void *pack_instruction(struct instruction instruction, size_t rest, bool identity)
{
    uint64_t word = instruction.kind | (uint64_t)instruction.rt << INSTRUCTION_KIND_BITS |
                    (uint64_t)instruction.condition << INSTRUCTION_CONDITION_FROM |
                    rest << INSTRUCTION_REST_FROM | (identity ? BLOCK_IDENTITY : 0);

    return (void *)(uintptr_t)word;
}

static struct instruction unpack_instruction(uint64_t word)
{
    return (struct instruction){
        field(word, 0, INSTRUCTION_KIND_BITS),
        field(word, INSTRUCTION_KIND_BITS, INSTRUCTION_RT_BITS),
        field(word, INSTRUCTION_CONDITION_FROM, INSTRUCTION_CONDITION_BITS),
    };
}

/* ---- Events: with the mutex held ---- */

static uint64_t instructions_so_far(void)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < recorder.n_vcpus; i++)
        sum += __atomic_load_n(&recorder.vcpus[i].instructions, __ATOMIC_RELAXED);
    return sum;
}

static void end_epoch(unsigned vcpu, uint64_t icount)
{
    uint32_t *room = timeline_room(&recorder.timeline, recorder.tracker.pages);

    timeline_add_epoch(&recorder.timeline, vcpu, icount, tracker_harvest(&recorder.tracker, room));
}

static void set_way(unsigned index, enum instruction_kind kind, uint64_t icount)
{
    struct vcpu *vcpu = &recorder.vcpus[index];
    struct entry *batch;

    if (!vcpu->trapped) {
        end_epoch(index, icount);
        vcpu->batch = timeline_add(&recorder.timeline, ENTRY_SET_WAY, index, icount, 0);
        vcpu->trapped = true;
    }
    batch = &recorder.timeline.entries[vcpu->batch];
    batch->isw += kind == INSTRUCTION_ISW;
    batch->csw += kind == INSTRUCTION_CSW;
    batch->cisw += kind == INSTRUCTION_CISW;
    batch->icount_end = icount;
}

static void wrote_vm_register(unsigned index, uint64_t icount)
{
    struct vcpu *vcpu = &recorder.vcpus[index];

    if (!vcpu->trapped)
        return;
    timeline_add(&recorder.timeline, ENTRY_VM_REG, index, icount, vcpu->caches_on);
    vcpu->trapped = !vcpu->caches_on;
}

static void wrote_sctlr(unsigned index, uint64_t icount, uint64_t value)
{
    struct vcpu *vcpu = &recorder.vcpus[index];
    bool caches_on = (value & CACHES_ON) == CACHES_ON;

    if (caches_on != vcpu->caches_on)
        end_epoch(index, icount);
    timeline_add(&recorder.timeline, ENTRY_SCTLR, index, icount, value);
    vcpu->caches_on = caches_on;
    vcpu->trapped &= !caches_on;
}

static void was_reset(unsigned index, uint64_t icount)
{
    struct vcpu *vcpu = &recorder.vcpus[index];

    end_epoch(index, icount);
    timeline_add(&recorder.timeline, ENTRY_RESET, index, icount, 0);
    vcpu->caches_on = vcpu->trapped = false;
}

/* ---- Callbacks ---- */

/* At the start of a block of so many bits: what the last one left open. */
static void settle(unsigned index, unsigned bits, bool identity)
{
    struct vcpu *vcpu = &recorder.vcpus[index];
    enum after after = vcpu->after;
    struct registers registers = {0, 0};

    vcpu->after = AFTER_NOTHING;
    if (after == AFTER_SCTLR) /* before the mutex: others, whom QEMU may wait for, want it */
        registers = monitor_registers(recorder.monitor, index, bits, vcpu->sctlr.rt);
    pthread_mutex_lock(&recorder.tracker.mutex);
    if (after == AFTER_SCTLR) {
        /* The write leaves the flags. One that traps to EL2 is executed, whatever they are there.
         */
        if (bits != recorder.bits || condition_holds(vcpu->sctlr.condition, registers.flags))
            wrote_sctlr(index, instructions_so_far(), registers.general);
    }
    /* A call returns to the next instruction, or an interrupt comes first: both with the MMU on, as
     * before. A vCPU that PSCI took off begins with it off. */
    if (after == AFTER_CALL && identity)
        was_reset(index, instructions_so_far());
    pthread_mutex_unlock(&recorder.tracker.mutex);
}

static void touch_page(struct vcpu *vcpu, uint64_t page, unsigned kind)
{
    tracker_touch(&recorder.tracker, &vcpu->tlb, page, kind);
    if (recorder.oracle)
        oracle_touch(page, kind == P2MFAST_WRITE, vcpu->lines);
}

static void block_begins(unsigned index, void *data)
{
    struct vcpu *vcpu = &recorder.vcpus[index];
    uint64_t word = (uintptr_t)data;
    uint64_t first = word >> BLOCK_COUNT_BITS & NO_PAGE;
    uint64_t second = word >> (BLOCK_COUNT_BITS + PAGE_BITS) & NO_PAGE;

    if (vcpu->after)
        settle(index, recorder.bits, word & BLOCK_IDENTITY);
    vcpu->block = word;
    __atomic_store_n(&vcpu->instructions, vcpu->instructions + field(word, 0, BLOCK_COUNT_BITS),
                     __ATOMIC_RELAXED);
    if (first != NO_PAGE)
        touch_page(vcpu, first, P2MFAST_EXECUTE);
    if (second != NO_PAGE)
        touch_page(vcpu, second, P2MFAST_EXECUTE);
}

static void instruction_begins(unsigned index, void *data)
{
    struct vcpu *vcpu = &recorder.vcpus[index];
    uint64_t word = (uintptr_t)data;
    const struct instruction instruction = unpack_instruction(word);
    unsigned rest = field(word, INSTRUCTION_REST_FROM, BLOCK_COUNT_BITS);

    switch (instruction.kind) {
    case INSTRUCTION_OTHER:
        break;
    case INSTRUCTION_ZERO:
        vcpu->zeroings++;
        break;
    case INSTRUCTION_SCTLR: /* its value is known when the next block begins, as it ends this one */
        vcpu->after = AFTER_SCTLR;
        vcpu->sctlr = instruction;
        break;
    case INSTRUCTION_CALL: /* with the MMU off, a reset could not be told from a return */
        vcpu->after = word & BLOCK_IDENTITY ? AFTER_NOTHING : AFTER_CALL;
        vcpu->block = 0; /* which has come to its end */
        break;
    case INSTRUCTION_VM_REG:
        if (!vcpu->trapped)
            break;
        /* fallthrough */
    case INSTRUCTION_ISW:
    case INSTRUCTION_CSW:
    case INSTRUCTION_CISW:
        pthread_mutex_lock(&recorder.tracker.mutex);
        if (instruction.kind == INSTRUCTION_VM_REG)
            wrote_vm_register(index, instructions_so_far() - rest);
        else
            set_way(index, instruction.kind, instructions_so_far() - rest);
        pthread_mutex_unlock(&recorder.tracker.mutex);
    }
}

static void touch_address(struct vcpu *vcpu, qemu_plugin_meminfo_t info, uint64_t va)
{
    const struct qemu_plugin_hwaddr *address = qemu_plugin_get_hwaddr(info, va);
    uint64_t offset;

    if (!address) {
        vcpu->unresolved++;
        return;
    }
    if (qemu_plugin_hwaddr_is_io(address))
        return;
    offset = qemu_plugin_hwaddr_phys_addr(address) - recorder.base;
    if (offset < recorder.guest)
        touch_page(vcpu, offset >> PAGE_SHIFT,
                   qemu_plugin_mem_is_store(info) ? P2MFAST_WRITE : P2MFAST_READ);
}

static void memory_accessed(unsigned index, qemu_plugin_meminfo_t info, uint64_t va, void *data)
{
    uint64_t last = va + (1u << qemu_plugin_mem_size_shift(info)) - 1;

    (void)data;
    touch_address(&recorder.vcpus[index], info, va);
    if ((va ^ last) / PAGE_SIZE)
        touch_address(&recorder.vcpus[index], info, last);
}

/* ---- Callbacks, with a monitor at EL2 ---- */

/* Bytes of the instruction of T32 that begins with this halfword (Arm ARM DDI 0487, F3.1). */
static uint64_t t32_size(uint16_t halfword)
{
    return halfword >> 11 >= 0x1d ? 4 : 2;
}

/* Instructions of a vCPU's last block that lie before so many bytes of it; all of them, if none
 * begins there. It is of T32 if not all have four bytes: which, its code says. */
static uint64_t instructions_before(const struct vcpu *vcpu, uint64_t bytes)
{
    uint64_t n = field(vcpu->block, 0, BLOCK_COUNT_BITS), at = 0;
    uint64_t pages[] = {vcpu->block >> BLOCK_COUNT_BITS & NO_PAGE,
                        vcpu->block >> (BLOCK_COUNT_BITS + PAGE_BITS) & NO_PAGE};
    uint64_t begin = vcpu->block_va % PAGE_SIZE;
    bool mixed = recorder.bits == 32 && vcpu->block_va & BLOCK_MIXED;

    for (uint64_t i = 0; i < n; i++) {
        uint64_t offset = begin + at, page = pages[offset >= PAGE_SIZE];

        if (at >= bytes)
            return at == bytes ? i : n;
        if (!mixed)
            at += 4;
        else if (page == NO_PAGE)
            return n;
        else
            at += t32_size(
                *(const uint16_t *)(recorder.host + (page << PAGE_SHIFT) + offset % PAGE_SIZE));
    }
    return n;
}

/* A block of the guest's is to begin. Where the last one was left for the monitor, it may not have
 * come to its end: its instructions from here on, which are to be executed now, have been counted.
 * (Not seen: that an interrupt comes before they are; a branch to its own block that was left as
 * its target could not be fetched is taken for one that was not executed.) */
static void guest_goes_on(unsigned index, void *data)
{
    struct vcpu *vcpu = &recorder.vcpus[index];
    uint64_t va = (uintptr_t)data;

    if (vcpu->left) {
        uint64_t n = field(vcpu->block, 0, BLOCK_COUNT_BITS);
        uint64_t done =
            instructions_before(vcpu, (va & ~BLOCK_MIXED) - (vcpu->block_va & ~BLOCK_MIXED));

        __atomic_store_n(&vcpu->instructions, vcpu->instructions - (n - done), __ATOMIC_RELAXED);
    }
    vcpu->left = false;
    vcpu->lines = oracle_lines();
    vcpu->block_va = va;
}

/* A block of the monitor's is to begin. */
static void monitor_goes_on(unsigned index, void *data)
{
    struct vcpu *vcpu = &recorder.vcpus[index];

    vcpu->left = true;
    if (vcpu->after == AFTER_SCTLR) /* X registers are still the guest's */
        settle(index, 64, false);
    if (vcpu->invalidating)
        oracle_invalidated(index);
    vcpu->invalidating = false;
    __atomic_store_n(&vcpu->monitor_instructions, vcpu->monitor_instructions + (uintptr_t)data,
                     __ATOMIC_RELAXED);
}

static struct oracle_counts counts(void)
{
    struct oracle_counts sums = {.guest = instructions_so_far()};

    for (unsigned i = 0; i < recorder.n_vcpus; i++) {
        const struct vcpu *vcpu = &recorder.vcpus[i];

        sums.monitor += __atomic_load_n(&vcpu->monitor_instructions, __ATOMIC_RELAXED);
        sums.zeroings += __atomic_load_n(&vcpu->zeroings, __ATOMIC_RELAXED);
        sums.unresolved += __atomic_load_n(&vcpu->unresolved, __ATOMIC_RELAXED);
    }
    return sums;
}

static void monitor_instruction(unsigned index, void *data)
{
    enum monitor_instruction kind = (enum monitor_instruction)(uintptr_t)data;

    if (kind == MONITOR_CLEAN)
        oracle_clean(index);
    else if (kind == MONITOR_INVALIDATE) /* done when the next block begins: it ends this one */
        recorder.vcpus[index].invalidating = true;
    else
        oracle_mark(index, kind, counts());
}

/* ---- Translation ---- */

static uint64_t offset_of(const struct qemu_plugin_insn *instruction)
{
    const uint8_t *host = qemu_plugin_insn_haddr(instruction);

    return host ? (uint64_t)(host - recorder.host) : UINT64_MAX;
}

static uint64_t page_of(const struct qemu_plugin_insn *instruction)
{
    uint64_t offset = offset_of(instruction);

    return offset < recorder.guest ? offset >> PAGE_SHIFT : NO_PAGE;
}

static void *pack_address(const struct qemu_plugin_insn *begin, const struct qemu_plugin_insn *end,
                          size_t n)
{
    uint64_t va = qemu_plugin_insn_vaddr(begin);
    bool mixed = qemu_plugin_insn_vaddr(end) - va != 4 * (n - 1);

    return (void *)(uintptr_t)(mixed ? va | BLOCK_MIXED : va);
}

static void translated_guest(struct qemu_plugin_tb *tb, size_t n)
{
    const struct qemu_plugin_insn *begin = qemu_plugin_tb_get_insn(tb, 0);
    const struct qemu_plugin_insn *end = qemu_plugin_tb_get_insn(tb, n - 1);
    uint64_t first, second;
    unsigned it = 0;
    bool identity;

    first = page_of(begin);
    second = page_of(end);
    identity = qemu_plugin_insn_vaddr(begin) == recorder.base + offset_of(begin);
    if (recorder.el2)
        qemu_plugin_register_vcpu_tb_exec_cb(tb, guest_goes_on, QEMU_PLUGIN_CB_NO_REGS,
                                             pack_address(begin, end, n));
    qemu_plugin_register_vcpu_tb_exec_cb(
        tb, block_begins, QEMU_PLUGIN_CB_NO_REGS,
        pack_block(n, first, second == first ? NO_PAGE : second, identity));
    for (size_t i = 0; i < n; i++) {
        struct qemu_plugin_insn *at = qemu_plugin_tb_get_insn(tb, i);
        struct instruction instruction =
            decode(qemu_plugin_insn_data(at), qemu_plugin_insn_size(at), recorder.bits, &it);

        qemu_plugin_register_vcpu_mem_cb(at, memory_accessed, QEMU_PLUGIN_CB_NO_REGS,
                                         QEMU_PLUGIN_MEM_RW, NULL);
        if (instruction.kind)
            qemu_plugin_register_vcpu_insn_exec_cb(at, instruction_begins, QEMU_PLUGIN_CB_NO_REGS,
                                                   pack_instruction(instruction, n - i, identity));
    }
}

/* By the physical place: a guest's virtual address may be the monitor's, too. */
static bool is_monitor(const struct qemu_plugin_insn *instruction)
{
    uint64_t offset = offset_of(instruction);

    return offset >= recorder.guest && offset < recorder.size;
}

static void translated_monitor(struct qemu_plugin_tb *tb, size_t n)
{
    qemu_plugin_register_vcpu_tb_exec_cb(tb, monitor_goes_on, QEMU_PLUGIN_CB_NO_REGS,
                                         (void *)(uintptr_t)n);
    for (size_t i = 0; recorder.oracle && i < n; i++) {
        struct qemu_plugin_insn *at = qemu_plugin_tb_get_insn(tb, i);
        enum monitor_instruction kind = oracle_decode(*(const uint32_t *)qemu_plugin_insn_data(at));

        if (kind)
            qemu_plugin_register_vcpu_insn_exec_cb(at, monitor_instruction, QEMU_PLUGIN_CB_NO_REGS,
                                                   (void *)(uintptr_t)kind);
    }
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    size_t n = qemu_plugin_tb_n_insns(tb);

    (void)id;
    if (!recorder.host) { /* the first block of the first vCPU: the others are still off */
        recorder.host = find_ram(recorder.size);
        oracle_see(recorder.host + recorder.guest);
    }
    if (is_monitor(qemu_plugin_tb_get_insn(tb, 0)))
        translated_monitor(tb, n);
    else
        translated_guest(tb, n);
}

/* ---- Life ---- */

static void finish(qemu_plugin_id_t id, void *data)
{
    struct log_header header = {.bits = recorder.bits,
                                .vcpus = recorder.n_vcpus,
                                .base_gfn = recorder.base >> PAGE_SHIFT,
                                .pages = recorder.tracker.pages};
    p2mfast_stats_t stats;

    (void)id;
    (void)data;
    pthread_mutex_lock(&recorder.tracker.mutex);
    header.instructions = instructions_so_far();
    end_epoch(0, header.instructions);
    for (unsigned i = 0; i < recorder.n_vcpus; i++) {
        header.zeroings += recorder.vcpus[i].zeroings;
        header.unresolved += recorder.vcpus[i].unresolved;
    }
    p2mfast_get_stats(recorder.tracker.p2m, &stats);
    header.faults = stats.resolved;
    timeline_write(&recorder.timeline, &header, recorder.out);
    if (recorder.oracle)
        oracle_write(recorder.oracle, counts());
    pthread_mutex_unlock(&recorder.tracker.mutex);
}

/* NAME=VALUE: the value, if this is the name. */
static const char *option(const char *argument, const char *name)
{
    size_t length = strlen(name);

    return strncmp(argument, name, length) || argument[length] != '=' ? NULL
                                                                      : argument + length + 1;
}

static bool take_option(const char *argument)
{
    const char *value;

    if ((value = option(argument, "out")))
        recorder.out = strdup(value); /* QEMU frees the arguments */
    else if ((value = option(argument, "monitor")))
        recorder.monitor = strdup(value);
    else if ((value = option(argument, "bits")))
        recorder.bits = (unsigned)strtoul(value, NULL, 0);
    else if ((value = option(argument, "base")))
        recorder.base = strtoull(value, NULL, 0);
    else if ((value = option(argument, "size")))
        recorder.size = strtoull(value, NULL, 0);
    else if ((value = option(argument, "el2")))
        recorder.el2 = strtoull(value, NULL, 0);
    else if ((value = option(argument, "oracle")))
        recorder.oracle = strdup(value);
    else if ((value = option(argument, "check")))
        recorder.check = !strcmp(value, "on");
    else
        return false;
    return true;
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc,
                                           char **argv)
{
    int error;

    for (int i = 0; i < argc; i++)
        if (!take_option(argv[i]))
            recorder_fail("there is no option %s", argv[i]);
    if (!recorder.out || !recorder.monitor || !info->system_emulation ||
        (recorder.bits != 32 && recorder.bits != 64) || recorder.base % PAGE_SIZE ||
        recorder.size % PAGE_SIZE || !recorder.size || recorder.size >> PAGE_SHIFT >= NO_PAGE)
        recorder_fail("it needs out=, monitor=, bits=, base= and size= of a system's RAM");
    recorder.guest = recorder.el2 ? recorder.el2 - recorder.base : recorder.size;
    if (recorder.guest > recorder.size || recorder.guest % PAGE_SIZE || !recorder.guest)
        recorder_fail("el2= is an address in RAM");
    if (recorder.oracle && !recorder.el2)
        recorder_fail("oracle= needs el2=");
    recorder.n_vcpus = (unsigned)info->system.max_vcpus;
    recorder.vcpus = aligned_alloc(CACHE_LINE, recorder.n_vcpus * sizeof(struct vcpu));
    if (!recorder.vcpus)
        recorder_fail("out of memory");
    memset(recorder.vcpus, 0, recorder.n_vcpus * sizeof(struct vcpu));
    error = tracker_init(&recorder.tracker, recorder.base >> PAGE_SHIFT,
                         recorder.guest >> PAGE_SHIFT, recorder.check);
    if (error)
        recorder_fail("the engine: %s", p2mfast_error_words(error));
    if (recorder.oracle)
        oracle_init(recorder.base >> PAGE_SHIFT, recorder.guest >> PAGE_SHIFT);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, finish, NULL);
    return 0;
}
