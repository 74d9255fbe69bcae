/*
 * Each method against the function of its name, or against what it says.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "harness.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

using namespace p2mfast;

static constexpr std::uint64_t BASE = 0x40000;
static constexpr std::uint64_t BLOCK = 512;

/* Two blocks of RAM, a hole, one page of a device, one read-only page, eight pages of a foreign
 * domain. */
static P2m guest()
{
    P2m p2m = got(P2m::create());

    CHECK(p2m.set_entry(BASE, 2 * BLOCK, 0x80000));
    CHECK(p2m.set_entry(BASE + 3 * BLOCK, 1, 0x9000, Type::MmioDirectDev, Access::RW));
    CHECK(p2m.set_entry(BASE + 3 * BLOCK + 1, 1, 0x9001, Type::RamRo));
    CHECK(p2m.set_entry(BASE + 4 * BLOCK, 8, 0x123400, Type::MapForeignRw));
    return p2m;
}

static void test_facts()
{
    P2m p2m = got(P2m::create());

    CHECK(!p2m.lowest_mapped_gfn() && !p2m.max_mapped_gfn());
    p2m = guest();
    CHECK_EQUAL(*p2m.lowest_mapped_gfn(), BASE);
    CHECK_EQUAL(*p2m.max_mapped_gfn(), BASE + 4 * BLOCK + 7);
    CHECK_EQUAL(p2m.root_level(), p2mfast_root_level(p2m.handle()));
    CHECK_EQUAL(p2m.root_pages(), p2mfast_root_pages(p2m.handle()));
    CHECK_EQUAL(p2m.vtcr(), p2mfast_vtcr(p2m.handle()));
    CHECK_EQUAL(p2m.vttbr(), p2mfast_vttbr(p2m.handle()));
    CHECK(p2m.vector_loops() == p2mfast_vector_loops(p2m.handle()));
    CHECK_EQUAL(p2m.stats().mappings[2], 2);
    CHECK_EQUAL(p2m.stats().mappings[3], 10);
    CHECK(p2m.check().empty());

    Tables tables = p2m.tables();
    std::vector<std::uint64_t> copy(tables.words.size());
    std::vector<std::uint64_t> part(2 * 512 + 511, 7); /* the last 511 are no row */

    CHECK_EQUAL(tables.base_mfn << 12 | UINT64_C(1) << 48, p2m.vttbr());
    CHECK_EQUAL(p2m.copy_tables(copy), tables.words.size() / 512);
    CHECK(std::equal(tables.words.begin(), tables.words.end(), copy.begin()));
    CHECK_EQUAL(p2m.copy_tables(part), copy.size() / 512);
    CHECK(std::equal(part.begin(), part.begin() + 2 * 512, copy.begin()));
    CHECK(std::all_of(part.begin() + 2 * 512, part.end(), [](auto word) { return word == 7; }));
}

static void test_look_ups()
{
    P2m p2m = guest();
    const P2m &readable = p2m;
    Entry page = got(readable.get_entry(BASE + 3 * BLOCK));
    Entry block = got(readable.get_entry(BASE + 5));
    Entry hole = got(readable.get_entry(BASE + 2 * BLOCK));

    CHECK_EQUAL(page.mfn(), 0x9000);
    CHECK(page.type() == Type::MmioDirectDev);
    CHECK_EQUAL(page.order(), 0);
    CHECK(page.valid() && page.reachable());
    CHECK_EQUAL(block.mfn(), 0x80005);
    CHECK_EQUAL(block.order(), 9);
    CHECK(block.type() == Type::RamRw && block.access() == Access::RWX);
    CHECK_EQUAL(hole.mfn(), P2MFAST_INVALID_MFN);
    CHECK(hole.type() == Type::Invalid && hole.access() == Access::None && !hole.valid());

    Translation pa = got(readable.translate((BASE + 5) << 12 | 0x123, Rights::Read));
    Translation refused = got(readable.translate((BASE + 3 * BLOCK + 1) << 12, Rights::Write));

    CHECK_EQUAL(pa.pa(), UINT64_C(0x80005123));
    CHECK_EQUAL(pa.level(), 2);
    CHECK(pa.fault() == Fault::None && pa.attrs() != 0);
    CHECK(refused.fault() == Fault::Permission);
    CHECK_EQUAL(refused.level(), 3);
    CHECK_EQUAL(code(readable.translate(0, Rights::None).error()), code(Errc::Argument));
}

static void test_tlb_entries()
{
    P2m p2m = guest();
    std::uint64_t ipa = (BASE + BLOCK + 7) << 12 | 0x456;
    TlbEntry block = got(p2m.translate_block(ipa, Rights::Read));
    TlbEntry refused = got(p2m.translate_block((BASE + 3 * BLOCK + 1) << 12, Rights::Write));
    p2mfast_tlb_entry_t same;

    CHECK_EQUAL(block.ipa(), (BASE + BLOCK) << 12);
    CHECK_EQUAL(block.pa(), UINT64_C(0x80200000));
    CHECK_EQUAL(block.size(), BLOCK << 12);
    CHECK(block.rights() == (Rights::Read | Rights::Write | Rights::Execute));
    CHECK(block.fault() == Fault::None);
    CHECK_EQUAL(block.level(), 2);
    CHECK_EQUAL(block.reads(), 2);
    CHECK_EQUAL(p2mfast_translate_block(p2m.handle(), ipa, P2MFAST_READ, &same), 0);
    CHECK(!std::memcmp(&same, &block.raw, sizeof(same)));
    CHECK_EQUAL(block.memattr(), same.memattr);
    CHECK_EQUAL(block.shareability(), same.shareability);
    CHECK_EQUAL(block.descriptor(), same.descriptor);
    CHECK(block.memattr() != block.shareability());
    CHECK(refused.fault() == Fault::Permission);
    CHECK((refused.rights() & Rights::Write) == Rights::None);
    CHECK((refused.rights() & Rights::Read) == Rights::Read);

    std::uint64_t generation = p2m.tlb_generation();

    CHECK(p2m.set_entry(BASE, 1, P2MFAST_INVALID_MFN));
    CHECK(p2m.tlb_generation() > generation);
    CHECK_EQUAL(p2m.tlb_generation(), p2m.stats().tlb_flushes);
}

static void test_batches()
{
    P2m p2m = got(P2m::create());
    const std::uint64_t gfns[] = {7, 3, 3};
    const std::uint64_t mfns[] = {70, 30, 31};
    const std::uint64_t ipas[] = {7 << 12 | 1, 3 << 12 | 2, 5 << 12};
    std::vector<Entry> entries(3);
    std::vector<Translation> results(3);

    CHECK(p2m.set_entries(gfns, mfns, Type::RamRo, Access::RWX, LeafFlags::None));
    CHECK(p2m.get_entries(gfns, entries));
    CHECK_EQUAL(entries[0].mfn(), 70);
    CHECK_EQUAL(entries[1].mfn(), 31);
    CHECK_EQUAL(entries[2].mfn(), 31);
    CHECK(entries[1].type() == Type::RamRo);
    CHECK(p2m.translate_many(ipas, Rights::Read, results));
    CHECK_EQUAL(results[0].pa(), 70 << 12 | 1);
    CHECK_EQUAL(results[1].pa(), 31 << 12 | 2);
    CHECK(results[2].fault() == Fault::Translation);
    CHECK(p2m.translate_many(ipas, Rights::Write, results));
    CHECK(results[0].fault() == Fault::Permission);
    CHECK(p2m.get_entries({}, {}));

    std::vector<Entry> two(2);

    CHECK_EQUAL(code(p2m.get_entries(gfns, two).error()), code(Errc::Argument));
    CHECK_EQUAL(code(p2m.set_entries(gfns, Span<const std::uint64_t>(mfns, 2)).error()),
                code(Errc::Argument));
    CHECK_EQUAL(p2m.stats().mappings[3], 2);
}

static void test_updates()
{
    P2m p2m = guest();

    CHECK_EQUAL(code(p2m.remove_mapping(BASE, 1, 0x80001).error()), code(Errc::Mismatch));
    CHECK(p2m.remove_mapping(BASE, 1, 0x80000));
    CHECK(got(p2m.get_entry(BASE)).type() == Type::Invalid);
    CHECK_EQUAL(p2m.stats().shattered[2], 1);
    CHECK(p2m.set_entry(BASE, BLOCK, 0x80000, Type::RamRw, Access::RWX,
                        LeafFlags::Armed | LeafFlags::MaxOrder0));
    CHECK_EQUAL(got(p2m.get_entry(BASE)).order(), 0);
    CHECK(!got(p2m.get_entry(BASE)).valid());
    CHECK(!p2m.set_max_tables(1));
    CHECK(p2m.set_max_tables(100));
    CHECK_EQUAL(p2m.max_tables(), 100);
    CHECK(got(p2m.relinquish(1)));
    CHECK(!got(p2m.relinquish()));
    CHECK_EQUAL(p2m.stats().mappings[2] + p2m.stats().mappings[3], 0);
}

static void test_mapped_runs()
{
    P2m p2m = guest();
    std::vector<MappedRun> all(10);
    std::size_t i = 0;

    all.resize(p2m.mapped_runs(all));
    CHECK_EQUAL(all.size(), 4);
    for (const MappedRun &run : p2m.mapped_runs()) {
        CHECK_EQUAL(run.gfn(), all[i].gfn());
        CHECK_EQUAL(run.mfn(), all[i].mfn());
        CHECK_EQUAL(run.nr(), all[i].nr());
        CHECK(run.type() == all[i].type());
        i++;
    }
    CHECK_EQUAL(i, 4);
    CHECK_EQUAL(all[0].nr(), 2 * BLOCK);
    CHECK(all[3].type() == Type::MapForeignRw);

    MappedRuns behind = p2m.mapped_runs(BASE + 3 * BLOCK + 1);
    auto run = behind.begin();

    CHECK_EQUAL(run->gfn(), BASE + 3 * BLOCK + 1);
    CHECK_EQUAL((++run)->mfn(), 0x123400);
    CHECK(++run == behind.end());

    P2m empty = got(P2m::create());

    for (const MappedRun &none : empty.mapped_runs())
        CHECK_EQUAL(none.nr(), 0);
}

static void test_tracking()
{
    P2m p2m = guest();
    const std::uint64_t gfns[] = {BASE + 1, BASE + 2 * BLOCK};
    std::uint8_t resolved[2] = {7, 7};

    CHECK(p2m.invalidate_root());
    CHECK(!got(p2m.get_entry(BASE)).reachable());
    CHECK(got(p2m.translate(BASE << 12, Rights::Read)).fault() == Fault::Translation);
    CHECK(got(p2m.resolve_translation_fault(BASE)));
    CHECK(got(p2m.get_entry(BASE)).reachable());
    CHECK(!got(p2m.resolve_translation_fault(BASE + 2 * BLOCK)));
    CHECK_EQUAL(code(p2m.resolve_translation_fault(BASE, Depth::Path, 19).error()),
                code(Errc::Argument));
    CHECK(p2m.invalidate_root());
    CHECK(got(p2m.resolve_translation_fault(BASE, Depth::Level)));
    CHECK(!got(p2m.get_entry(BASE)).reachable());
    CHECK(p2m.resolve_translation_faults(gfns, resolved));
    CHECK_EQUAL(resolved[0], 1);
    CHECK_EQUAL(resolved[1], 0);
    CHECK(!p2m.resolve_translation_faults(gfns, Span<std::uint8_t>(resolved, 1)));
}

static void test_accesses()
{
    P2m p2m = guest();
    const std::uint64_t ipas[] = {BASE << 12, (BASE + 3 * BLOCK + 1) << 12};
    const std::uint8_t kinds[] = {P2MFAST_READ, P2MFAST_WRITE};
    std::uint8_t traps[2] = {7, 7};
    std::uint8_t faults[2] = {7, 7};

    CHECK(p2m.invalidate_root());
    CHECK(p2m.access_many(ipas, kinds, traps, faults, false));
    CHECK_EQUAL(traps[0], 0);
    CHECK_EQUAL(faults[0], P2MFAST_FAULT_TRANSLATION);
    CHECK(p2m.access_many(ipas, kinds, traps, faults));
    CHECK_EQUAL(traps[0], 1);
    CHECK_EQUAL(faults[0], P2MFAST_FAULT_NONE);
    CHECK_EQUAL(faults[1], P2MFAST_FAULT_PERMISSION);
    CHECK(!p2m.access_many(ipas, kinds, Span<std::uint8_t>(traps, 1), faults));
    CHECK(!p2m.access_many(ipas, kinds, traps, Span<std::uint8_t>(faults, 1)));
    CHECK(!p2m.access_many(ipas, Span<const std::uint8_t>(kinds, 1), traps, faults));
}

static P2m scattered(std::uint64_t pages)
{
    P2m p2m = got(P2m::create());

    for (std::uint64_t i = 0; i < pages; i++)
        CHECK(p2m.set_entry(2 * i, 1, 0x1000 + i));
    return p2m;
}

static void test_harvest()
{
    for (std::size_t room : {1, 3, 64}) {
        P2m p2m = scattered(20);
        std::vector<Run> buffer(room);
        std::uint64_t next = 0;

        for (Span<const Run> piece : p2m.harvest(buffer)) {
            CHECK(!piece.empty() && piece.size() <= room);
            for (const Run &run : piece) {
                CHECK_EQUAL(run.gfn, 2 * next);
                CHECK_EQUAL(run.mfn, 0x1000 + next);
                next++;
            }
        }
        CHECK_EQUAL(next, 20);
        CHECK(!got(p2m.get_entry(0)).reachable());
        for (Span<const Run> piece : p2m.harvest(buffer))
            CHECK(piece.empty()); /* nothing was touched: there is none */
    }
}

static void test_a_harvest_that_is_left_loses_nothing()
{
    P2m p2m = scattered(20);
    Run buffer[6];
    std::size_t seen = 0;

    for (Span<const Run> piece : p2m.harvest(buffer)) {
        seen += piece.size();
        break;
    }
    CHECK_EQUAL(seen, 6);
    for (Span<const Run> piece : p2m.harvest(buffer))
        seen += piece.size();
    CHECK_EQUAL(seen, 20);
}

static void test_a_harvest_goes_on_past_what_is_no_ram()
{
    P2m p2m = got(P2m::create());
    const std::uint64_t tables = 1500; /* more than one call of p2mfast_harvest goes through */
    Run buffer[4];
    std::size_t seen = 0;

    for (std::uint64_t i = 0; i < tables; i++)
        CHECK(p2m.set_entry(i * BLOCK, 1, 0x9000, Type::MmioDirectDev));
    CHECK(p2m.set_entry(tables * BLOCK, 1, 0x1000));
    for (Span<const Run> piece : p2m.harvest(buffer)) {
        CHECK_EQUAL(piece[0].gfn, tables * BLOCK);
        seen += piece.size();
    }
    CHECK_EQUAL(seen, 1);
}

static void test_cache_flush()
{
    P2m p2m = scattered(20);
    FlushState flush = {};
    Run buffer[6];
    std::uint64_t pages = 0;
    unsigned calls = 0;

    while (!flush.done && CHECK(calls++ < 100)) {
        Span<const Run> piece = got(p2m.cache_flush_range(flush, 30, Skip::None, buffer));

        for (const Run &run : piece)
            pages += run.nr;
    }
    CHECK_EQUAL(pages, 15);
    CHECK_EQUAL(flush.pages, 15);
    CHECK(p2m.invalidate_root());
    flush = {};
    CHECK(got(p2m.cache_flush_range(flush, 40, Skip::Path, buffer)).empty());
    CHECK(flush.done);
    flush = {};
    CHECK_EQUAL(got(p2m.cache_flush_range(flush, 40, Skip::None, buffer, 15)).size(), 2);
    CHECK(!flush.done);
    flush = {};
    CHECK_EQUAL(code(p2m.cache_flush_range(flush, 40, Skip(3), buffer).error()),
                code(Errc::Argument));
}

static void test_mem_access()
{
    P2m p2m = guest();

    CHECK(!p2m.mem_access_enabled());
    CHECK(p2m.set_mem_access(BASE + 1, 1, Access::RX));
    CHECK(p2m.mem_access_enabled());
    CHECK(got(p2m.get_entry(BASE + 1)).access() == Access::RX);
    CHECK(p2m.enable_mem_access(false));
    CHECK(!p2m.mem_access_enabled());
    CHECK(p2m.enable_mem_access());
    CHECK(got(p2m.get_entry(BASE + 1)).access() == Access::RX);
    CHECK_EQUAL(code(p2m.set_mem_access(BASE, 1, Access::None).error()), code(Errc::Argument));
}

static void test_what_is_there()
{
    P2m p2m = guest();
    Word words[20];
    Event events[20];

    CHECK_EQUAL(p2m.words(2, words), 4); /* two blocks, two tables */
    CHECK_EQUAL(words[1].gfn, BASE + BLOCK);
    CHECK_EQUAL(p2m.words(3, Span<Word>(words, 1)), 10);
    while (p2m.pending_events())
        p2m.drain_events(events);
    CHECK(p2m.set_entry(BASE + 4 * BLOCK, 8, P2MFAST_INVALID_MFN));
    CHECK_EQUAL(p2m.pending_events(), 2);

    Span<const Event> drained = p2m.drain_events(events);
    bool removed = false;
    bool invalidated = false;

    CHECK_EQUAL(drained.size(), 2);
    for (const Event &event : drained) {
        CHECK_EQUAL(event.gfn(), BASE + 4 * BLOCK);
        CHECK(event.nr() >= 8);
        if (event.kind() == EventKind::MappingRemoved)
            removed = event.mfn() == 0x123400 && event.type() == Type::MapForeignRw;
        else
            invalidated = event.kind() == EventKind::TlbInvalidate;
    }
    CHECK(removed && invalidated);
    CHECK_EQUAL(p2m.pending_events(), 0);
}

static void test_checkpoints()
{
    P2m p2m = guest();

    CHECK(p2m.set_mem_access(BASE + 1, 1, Access::RX));
    std::vector<std::byte> checkpoint = p2m.checkpoint();
    P2m again = got(P2m::restore(checkpoint));

    CHECK(again.handle() != p2m.handle());
    CHECK_EQUAL(again.stats().mappings[3], p2m.stats().mappings[3]);
    CHECK(got(again.get_entry(BASE + 1)).access() == Access::RX);
    CHECK_EQUAL(got(again.get_entry(BASE + 3 * BLOCK)).mfn(), 0x9000);
    CHECK(again.check().empty());
    checkpoint.pop_back();
    CHECK_EQUAL(code(P2m::restore(checkpoint).error()), code(Errc::Checkpoint));
    CHECK_EQUAL(code(P2m::restore({}).error()), code(Errc::Checkpoint));
}

static void test_check_finds()
{
    P2m p2m = guest();
    Tables tables = p2m.tables();

    /* What no embedder may do. */
    auto *word = const_cast<std::uint64_t *>(tables.words.data());

    while (!*word)
        word++;
    std::uint64_t was = *word;

    *word = 0;
    CHECK(!p2m.check().empty());
    *word = was;
    CHECK(p2m.check().empty());
}

void operation_tests()
{
    RUN(test_facts);
    RUN(test_look_ups);
    RUN(test_tlb_entries);
    RUN(test_batches);
    RUN(test_updates);
    RUN(test_mapped_runs);
    RUN(test_tracking);
    RUN(test_accesses);
    RUN(test_harvest);
    RUN(test_a_harvest_that_is_left_loses_nothing);
    RUN(test_a_harvest_goes_on_past_what_is_no_ram);
    RUN(test_cache_flush);
    RUN(test_mem_access);
    RUN(test_what_is_there);
    RUN(test_checkpoints);
    RUN(test_check_finds);
}
