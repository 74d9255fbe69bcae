/*
 * A plugin for QEMU's TCG that records a guest as p2mfast replays it: the pages of RAM it touches,
 * its Set/Way operations, the writes of its VM registers, its vCPUs that go off and on.
 *
 * The engine is in it, live: a page's first touch is a stage-2 fault that it resolves, and what was
 * touched is what it harvests, when a hypervisor would flush.
 *
 *     -plugin recorder.so,out=FILE,bits=32,base=0x40000000,size=0x20000000,monitor=SOCKET
 *
 * RAM has to be one memory-backend-memfd, the machine's memory-backend, so that a translation
 * block's host address tells its physical one.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "decode.h"
#include "monitor.h"
#include "qemu_api.h"
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
    uint64_t zeroings;
    uint64_t unresolved;
    size_t batch; /* the timeline's entry of its Set/Way batch, while it is trapped */
    enum after after;
    struct instruction sctlr; /* the last write of it */
    bool caches_on;
    bool trapped; /* its VM registers, since a Set/Way operation: HCR_EL2.TVM */
};

static struct {
    const char *out, *monitor;
    unsigned bits, n_vcpus;
    uint64_t base, size;
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

/* At the start of a block: what the last one left open. */
static void settle(unsigned index, bool identity)
{
    struct vcpu *vcpu = &recorder.vcpus[index];
    enum after after = vcpu->after;
    struct registers registers = {0, 0};

    vcpu->after = AFTER_NOTHING;
    if (after == AFTER_SCTLR) /* before the mutex: others, whom QEMU may wait for, want it */
        registers = monitor_registers(recorder.monitor, index, recorder.bits, vcpu->sctlr.rt);
    pthread_mutex_lock(&recorder.tracker.mutex);
    if (after == AFTER_SCTLR) {
        if (condition_holds(vcpu->sctlr.condition, registers.flags)) /* the write leaves them */
            wrote_sctlr(index, instructions_so_far(), registers.general);
    }
    /* A call returns to the next instruction, or an interrupt comes first: both with the MMU on, as
     * before. A vCPU that PSCI took off begins with it off. */
    if (after == AFTER_CALL && identity)
        was_reset(index, instructions_so_far());
    pthread_mutex_unlock(&recorder.tracker.mutex);
}

static void block_begins(unsigned index, void *data)
{
    struct vcpu *vcpu = &recorder.vcpus[index];
    uint64_t word = (uintptr_t)data;
    uint64_t first = word >> BLOCK_COUNT_BITS & NO_PAGE;
    uint64_t second = word >> (BLOCK_COUNT_BITS + PAGE_BITS) & NO_PAGE;

    if (vcpu->after)
        settle(index, word & BLOCK_IDENTITY);
    __atomic_store_n(&vcpu->instructions, vcpu->instructions + field(word, 0, BLOCK_COUNT_BITS),
                     __ATOMIC_RELAXED);
    if (first != NO_PAGE)
        tracker_touch(&recorder.tracker, &vcpu->tlb, first, P2MFAST_EXECUTE);
    if (second != NO_PAGE)
        tracker_touch(&recorder.tracker, &vcpu->tlb, second, P2MFAST_EXECUTE);
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
    if (offset < recorder.size)
        tracker_touch(&recorder.tracker, &vcpu->tlb, offset >> PAGE_SHIFT,
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

/* ---- Translation ---- */

static uint64_t offset_of(const struct qemu_plugin_insn *instruction)
{
    const uint8_t *host = qemu_plugin_insn_haddr(instruction);

    return host ? (uint64_t)(host - recorder.host) : UINT64_MAX;
}

static uint64_t page_of(const struct qemu_plugin_insn *instruction)
{
    uint64_t offset = offset_of(instruction);

    return offset < recorder.size ? offset >> PAGE_SHIFT : NO_PAGE;
}

/* The guest's RAM among this process's mappings. */
static const uint8_t *find_ram(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    uintptr_t from, to, found = 0;
    char line[4096];

    while (maps && fgets(line, sizeof(line), maps))
        if (strstr(line, "/memfd:memory-backend-memfd") &&
            sscanf(line, "%" SCNxPTR "-%" SCNxPTR, &from, &to) == 2 && to - from == recorder.size)
            found = from;
    if (maps)
        fclose(maps);
    if (!found)
        recorder_fail("RAM is no memory-backend-memfd of %#" PRIx64 " bytes", recorder.size);
    return (const uint8_t *)found;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    size_t n = qemu_plugin_tb_n_insns(tb);
    const struct qemu_plugin_insn *begin = qemu_plugin_tb_get_insn(tb, 0);
    const struct qemu_plugin_insn *end = qemu_plugin_tb_get_insn(tb, n - 1);
    uint64_t first, second;
    unsigned it = 0;
    bool identity;

    (void)id;
    if (!recorder.host) /* the first block of the first vCPU: the others are still off */
        recorder.host = find_ram();
    first = page_of(begin);
    second = page_of(end);
    identity = qemu_plugin_insn_vaddr(begin) == recorder.base + offset_of(begin);
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
    recorder.n_vcpus = (unsigned)info->system.max_vcpus;
    recorder.vcpus = aligned_alloc(CACHE_LINE, recorder.n_vcpus * sizeof(struct vcpu));
    if (!recorder.vcpus)
        recorder_fail("out of memory");
    memset(recorder.vcpus, 0, recorder.n_vcpus * sizeof(struct vcpu));
    error = tracker_init(&recorder.tracker, recorder.base >> PAGE_SHIFT,
                         recorder.size >> PAGE_SHIFT, recorder.check);
    if (error)
        recorder_fail("the engine: %s", p2mfast_error_words(error));
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, finish, NULL);
    return 0;
}
