/*
 * What the engine asks of its surroundings: memory for tables and bookkeeping, TLB invalidations,
 * the log.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "harness.hpp"

#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

using namespace p2mfast;

struct Tlb {
    void tlb_invalidate(const Invalidation &invalidation)
    {
        seen.push_back(invalidation);
    }

    std::vector<Invalidation> seen;
};

static void test_tlb_invalidations_are_told()
{
    Tlb tlb;
    P2m p2m = got(P2m::create(Config().vmid(5).host(tlb)));

    CHECK(p2m.set_entry(0x1000, 4, 0x80000));
    tlb.seen.clear();
    CHECK(p2m.set_entry(0x1000, 4, P2MFAST_INVALID_MFN));
    CHECK_EQUAL(tlb.seen.size(), 1);
    if (tlb.seen.empty())
        return;
    CHECK(tlb.seen[0].gfn <= 0x1000);
    CHECK(tlb.seen[0].gfn + tlb.seen[0].nr >= 0x1004);
    CHECK_EQUAL(tlb.seen[0].vmid, 5);
    CHECK_EQUAL(tlb.seen[0].scope, code(Scope::Range));
    CHECK(p2m.invalidate_root());
    CHECK_EQUAL(tlb.seen.back().scope, code(Scope::Vmid));
    CHECK_EQUAL(p2m.pending_events(), 0);
}

struct Heap {
    void *allocate(std::size_t bytes)
    {
        void *memory = empty ? nullptr : std::malloc(bytes);

        if (memory)
            sizes[memory] = bytes;
        return memory;
    }
    void release(void *memory, std::size_t bytes)
    {
        CHECK_EQUAL(sizes.count(memory), 1);
        CHECK_EQUAL(sizes[memory], bytes);
        sizes.erase(memory);
        std::free(memory);
    }

    std::map<void *, std::size_t> sizes;
    bool empty = false;
};

static void test_the_allocator_is_used_and_gets_all_back()
{
    Heap heap;
    {
        P2m p2m = got(P2m::create(Config().host(heap)));
        std::size_t handles = heap.sizes.size();

        CHECK(handles > 0);
        CHECK(p2m.set_entry(0, 512, 0x1000));
        CHECK(p2m.set_mem_access(0, 1, Access::R));
        CHECK(heap.sizes.size() > handles);
        heap.empty = true;
        CHECK_EQUAL(code(p2m.set_mem_access(UINT64_C(1) << 20, 1, Access::R).error()),
                    code(Errc::Ok)); /* a hole: nothing to keep */
    }
    CHECK(heap.sizes.empty());
    CHECK_EQUAL(code(P2m::create(Config().host(heap)).error()), code(Errc::Memory));
}

struct Everything : Tlb, Heap {
    void log(const char *message)
    {
        messages.emplace_back(message);
    }

    std::vector<const char *> messages;
};

struct Log {
    void log(const char *message)
    {
        messages.emplace_back(message);
    }

    std::vector<const char *> messages;
};

static void test_a_host_may_do_everything()
{
    Everything host;
    Config config = Config().host(host);

    CHECK(config.raw().tlb_invalidate && config.raw().allocate && config.raw().release);
    CHECK(config.raw().log && config.raw().context == &host);
    {
        P2m p2m = got(P2m::create(config));

        CHECK(p2m.invalidate_root());
        CHECK_EQUAL(host.seen.size(), 1);
        CHECK(!host.sizes.empty());
    }
    CHECK(host.sizes.empty());
}

static void test_the_log_is_heard()
{
    Log host;
    Config config = Config().host(host);
    P2m p2m = got(P2m::create(config));

    CHECK(!config.raw().tlb_invalidate && !config.raw().allocate);
    for (std::uint64_t i = 0; i < 5000; i++) { /* more than are kept, and nobody drains them */
        CHECK(p2m.set_entry(2 * i, 1, 0x1000));
        CHECK(p2m.set_entry(2 * i, 1, P2MFAST_INVALID_MFN));
    }
    CHECK(!host.messages.empty());
    CHECK(host.messages.empty() || std::strstr(host.messages[0], "TLB"));
}

static void test_plain_functions()
{
    unsigned count = 0;
    Config config;

    config.raw().context = &count;
    config.raw().tlb_invalidate = [](void *context, const Invalidation *) {
        ++*static_cast<unsigned *>(context);
    };
    P2m p2m = got(P2m::create(config));

    CHECK(p2m.invalidate_root());
    CHECK_EQUAL(count, 1);
}

static void test_tables_in_memory_that_is_given()
{
    alignas(4096) static std::byte memory[8 * 4096 + 100]; /* the last 100 are no frame */
    const std::byte mark{0xa5};

    std::memset(memory, 0xa5, sizeof(memory));
    {
        P2m p2m = got(P2m::create(Config().table_memory(memory, 0x80000)));

        CHECK(static_cast<const void *>(p2m.tables().words.data()) == memory);
        CHECK_EQUAL(p2m.vttbr() & ((UINT64_C(1) << 48) - 1), 0x80000000);
        CHECK(p2m.set_entry(0, 1, 0x90000));
        /* Eight frames, two of them roots: six tables; each of these takes one. */
        for (std::uint64_t i = 0; i < 5; i++)
            CHECK_EQUAL(p2m.set_entry((i + 1) * 512, 1, 1) ? 1 : 0, i < 4);
        CHECK_EQUAL(p2m.stats().tables, 6);
        CHECK_EQUAL(code(p2m.set_entry(100 * 512, 1, 1).error()), code(Errc::Tables));
    }
    CHECK(memory[8 * 4096] == mark && memory[8 * 4096 + 99] == mark);
}

static void test_a_checkpoint_comes_to_live_elsewhere()
{
    alignas(4096) static std::byte memory[8 * 4096];
    Tlb tlb;
    P2m p2m = got(P2m::create());

    CHECK(p2m.set_entry(7, 1, 0x90000));
    P2m moved = got(P2m::restore(p2m.checkpoint(),
                                 Config().table_memory(memory, p2m.tables().base_mfn).host(tlb)));

    CHECK(static_cast<const void *>(moved.tables().words.data()) == memory);
    CHECK_EQUAL(got(moved.get_entry(7)).mfn(), 0x90000);
    CHECK_EQUAL(tlb.seen.size(), 1); /* all is stale */
}

void host_tests()
{
    RUN(test_tlb_invalidations_are_told);
    RUN(test_the_allocator_is_used_and_gets_all_back);
    RUN(test_a_host_may_do_everything);
    RUN(test_the_log_is_heard);
    RUN(test_plain_functions);
    RUN(test_tables_in_memory_that_is_given);
    RUN(test_a_checkpoint_comes_to_live_elsewhere);
}
