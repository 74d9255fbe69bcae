/*
 * Walks that do not block, of the tables as memory has them, against the engine's own.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "harness.hpp"

#include <cstring>
#include <vector>

using namespace p2mfast;

static P2m guest()
{
    P2m p2m = got(P2m::create());

    CHECK(p2m.set_entry(0x40000, 1024, 0x80000));
    CHECK(p2m.set_entry(0x40003, 1, 0x99999, Type::RamRo));
    CHECK(p2m.set_entry(UINT64_C(1) << 20, 1 << 18, UINT64_C(1) << 21));
    return p2m;
}

static std::uint64_t descriptor_at(const P2m &p2m, std::uint64_t address)
{
    Tables tables = p2m.tables();

    return tables.words[(address - (tables.base_mfn << 12)) / 8];
}

static void test_a_walk_is_the_look_up()
{
    P2m p2m = guest();
    Regime regime = Regime::decode(p2m.vttbr(), p2m.vtcr()).value();
    std::uint64_t seed = 5;

    CHECK_EQUAL(regime.raw().ipa_bits, 40);
    for (unsigned i = 0; i < 2000; i++) {
        std::uint64_t ipa = i % 2 ? UINT64_C(0x40000000) + harness_below(&seed, 1 << 23)
                                  : harness_below(&seed, UINT64_C(1) << 33);
        Rights rights = Rights(1 + harness_below(&seed, 7));
        TlbEntry want = got(p2m.translate_block(ipa, rights));
        Walk walk = Walk::begin(regime, ipa, rights).value();
        unsigned steps = 0;

        for (; !walk.done(); steps++) {
            Walk aside = walk; /* put aside, and taken up again */

            walk = aside;
            walk.step(descriptor_at(p2m, walk.address()));
        }
        CHECK_EQUAL(steps, want.reads());
        CHECK_EQUAL(walk.result().pa(), want.pa());
        CHECK_EQUAL(walk.result().size(), want.size());
        CHECK_EQUAL(walk.result().level(), want.level());
        CHECK(walk.result().fault() == want.fault());
        CHECK(walk.result().rights() == want.rights());
    }
}

static void test_a_read_that_fails()
{
    P2m p2m = guest();
    Regime regime = Regime::decode(p2m.vttbr(), p2m.vtcr()).value();
    Walk walk = Walk::begin(regime, UINT64_C(0x40003000), Rights::Read).value();

    walk.step(descriptor_at(p2m, walk.address()));
    CHECK(!walk.done());
    walk.abort();
    CHECK(walk.done());
    CHECK(walk.result().fault() == Fault::External);
    CHECK_EQUAL(walk.result().level(), 2);
}

static void test_what_is_no_walk()
{
    P2m p2m = guest();
    Regime regime = Regime::decode(p2m.vttbr(), p2m.vtcr()).value();

    CHECK_EQUAL(code(Walk::begin(regime, 0, Rights::None).error()), code(Errc::Argument));
    CHECK(Walk::begin(regime, UINT64_C(1) << 40, Rights::Read).value().done());
    CHECK_EQUAL(code(Regime::decode(p2m.vttbr() + 0x1000, p2m.vtcr()).error()),
                code(Errc::TableBase));
    CHECK_EQUAL(code(Regime::decode(p2m.vttbr(), p2m.vtcr() | 1 << 14).error()),
                code(Errc::IpaBits));
    CHECK_EQUAL(Regime::decode(p2m.vttbr(), p2m.vtcr(), 36).value().raw().pa_bits, 36);
}

static void test_syndromes()
{
    p2mfast_syndrome_t want;
    Syndrome syndrome = got(p2mfast::syndrome(Fault::Permission, 3, 0x40003123, Rights::Write,
                                              SyndromeFlags::Stage1Walk));

    CHECK_EQUAL(p2mfast_syndrome(P2MFAST_FAULT_PERMISSION, 3, 0x40003123, P2MFAST_WRITE,
                                 P2MFAST_STAGE1_WALK, &want),
                0);
    CHECK_EQUAL(syndrome.esr, want.esr);
    CHECK_EQUAL(syndrome.hpfar, want.hpfar);
    CHECK_EQUAL(code(p2mfast::syndrome(Fault::None, 3, 0, Rights::Read).error()),
                code(Errc::Argument));
}

void walk_tests()
{
    RUN(test_a_walk_is_the_look_up);
    RUN(test_a_read_that_fails);
    RUN(test_what_is_no_walk);
    RUN(test_syndromes);
}
