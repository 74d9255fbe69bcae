/*
 * Ownership, results, spans, and the table of functions.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "harness.hpp"

#include <array>
#include <cstring>
#include <type_traits>
#include <vector>

using namespace p2mfast;

static_assert(!std::is_copy_constructible_v<P2m> && !std::is_copy_assignable_v<P2m>,
              "a P2m has one owner");
static_assert(std::is_nothrow_move_constructible_v<P2m> && std::is_nothrow_move_assignable_v<P2m>,
              "so that containers move it");
static_assert(std::is_convertible_v<P2m &, P2mRef>, "a P2m lends itself");
static_assert(!std::is_convertible_v<P2m, P2mRef>, "but not when it is about to die");
static_assert(!std::is_convertible_v<const P2m &, P2mRef>, "nor when it must not be changed");
static_assert(std::is_convertible_v<std::vector<int> &, Span<const int>>, "containers are spans");
static_assert(!std::is_convertible_v<const std::vector<int> &, Span<int>>, "const stays const");

/* ---- A table of functions that counts ---- */

static int destroyed;
static int looked_up;

static void count_destroy(p2mfast_t *p2m)
{
    destroyed += p2m != nullptr;
    p2mfast_destroy(p2m);
}

static int count_look_up(const p2mfast_t *p2m, std::uint64_t gfn, p2mfast_entry_t *entry)
{
    looked_up++;
    return p2mfast_get_entry(p2m, gfn, entry);
}

static const Api &counting()
{
    static const Api api = [] {
        Api table = linked();

        table.destroy = count_destroy;
        table.get_entry = count_look_up;
        return table;
    }();

    destroyed = 0;
    looked_up = 0;
    return api;
}

static void test_one_owner_destroys_once()
{
    const Api &api = counting();

    {
        P2m first = got(P2m::create(Config(), api));
        p2mfast_t *handle = first.handle();
        P2m second = std::move(first);

        CHECK(!first); // NOLINT: what is left is looked at
        CHECK(second && second.handle() == handle);
        CHECK_EQUAL(destroyed, 0);
        second = got(P2m::create(Config().vmid(9), api));
        CHECK_EQUAL(destroyed, 1);
        CHECK_EQUAL(second.vmid(), 9);
        P2m &itself = second;

        second = std::move(itself);
        CHECK_EQUAL(second.vmid(), 9);
        CHECK_EQUAL(destroyed, 1);
    }
    CHECK_EQUAL(destroyed, 2);
}

static void test_a_handle_given_and_taken()
{
    const Api &api = counting();
    p2mfast_t *handle = got(P2m::create(Config(), api)).release();

    CHECK_EQUAL(destroyed, 0);
    CHECK_EQUAL(p2mfast_ipa_bits(handle), 40);
    {
        P2mRef borrowed(handle, api);

        CHECK(borrowed);
    }
    CHECK_EQUAL(destroyed, 0);
    {
        P2m owner(handle, api);
    }
    CHECK_EQUAL(destroyed, 1);
    CHECK(!P2mRef());
    CHECK(!P2m());
}

static void test_a_reference_calls_the_engine_that_made_it()
{
    const Api &api = counting();
    P2m p2m = got(P2m::create(Config(), api));
    P2mRef reference = p2m;
    P2mRef plain(p2m.handle());

    CHECK(reference.get_entry(1) && p2m.get_entry(1));
    CHECK_EQUAL(looked_up, 2);
    CHECK(plain.get_entry(1));
    CHECK_EQUAL(looked_up, 2);
    CHECK(&reference.api() == &api);
    CHECK(&plain.api() == &linked());
}

static void test_errors()
{
    P2m p2m = got(P2m::create());
    Result<Entry> beyond = p2m.get_entry(UINT64_C(1) << 28);
    Status empty = p2m.set_entry(0, 0, 1);

    CHECK(!beyond);
    CHECK_EQUAL(code(beyond.error()), code(Errc::Range));
    CHECK(!std::strcmp(beyond.words(), p2mfast_error_words(P2MFAST_ERROR_RANGE)));
    CHECK(!empty);
    CHECK_EQUAL(code(empty.error()), code(Errc::Argument));
    CHECK(p2m.set_entry(0, 1, 1));
    CHECK_EQUAL(code(P2m::create(Config().ipa_bits(33)).error()), code(Errc::IpaBits));
    CHECK_EQUAL(code(P2m::create(Config().pa_bits(33)).error()), code(Errc::PaBits));
    CHECK_EQUAL(code(P2m::create(Config().table_base_mfn(1)).error()), code(Errc::TableBase));
#if defined(__cpp_exceptions)
    bool caught = false;

    try {
        p2m.get_entry(UINT64_C(1) << 28).value();
    } catch (const Error &error) {
        caught = error.code() == Errc::Range && !std::strcmp(error.what(), beyond.words());
    }
    CHECK(caught);
    caught = false;
    try {
        empty.value();
    } catch (const std::exception &error) {
        caught = !std::strcmp(error.what(), empty.words());
    }
    CHECK(caught);
#endif
}

static void test_configuration_arrives()
{
    P2m p2m = got(P2m::create(
        Config().ipa_bits(36).pa_bits(44).vmid(300).max_tables(3).table_base_mfn(0x12340)));
    Config plain;

    CHECK_EQUAL(p2m.ipa_bits(), 36);
    CHECK_EQUAL(p2m.pa_bits(), 44);
    CHECK_EQUAL(p2m.vmid(), 300);
    CHECK_EQUAL(p2m.max_tables(), 3);
    CHECK_EQUAL(p2m.tables().base_mfn, 0x12340);
    CHECK_EQUAL(p2m.vttbr(), UINT64_C(300) << 48 | 0x12340000);
    plain.raw().size = 1;
    CHECK_EQUAL(code(P2m::create(plain).error()), code(Errc::Abi));
}

static int sum(Span<const int> values)
{
    int total = 0;

    for (const int &value : values)
        total += value;
    return total;
}

static void test_spans()
{
    int plain[] = {1, 2, 3};
    std::array<int, 2> fixed = {4, 5};
    const std::vector<int> grown = {6, 7, 8, 9};
    Span<int> some(plain, 2);

    CHECK_EQUAL(sum(plain), 6);
    CHECK_EQUAL(sum(fixed), 9);
    CHECK_EQUAL(sum(grown), 30);
    CHECK_EQUAL(sum(some), 3);
    CHECK_EQUAL(sum({}), 0);
    CHECK(Span<int>().empty() && !some.empty());
    some[1] = 10;
    CHECK_EQUAL(plain[1], 10);
    CHECK_EQUAL(Span<const int>(some).size(), 2);
}

static void test_flags()
{
    CHECK_EQUAL(code(Rights::Read | Rights::Execute), P2MFAST_READ | P2MFAST_EXECUTE);
    CHECK_EQUAL(code((Rights::Read | Rights::Write) & Rights::Write), P2MFAST_WRITE);
    CHECK_EQUAL(code(LeafFlags::Armed | LeafFlags::MaxOrder0), P2MFAST_ARMED | P2MFAST_MAX_ORDER_0);
    CHECK_EQUAL(code(SyndromeFlags::CacheOp | SyndromeFlags::AArch32),
                P2MFAST_CACHE_OP | P2MFAST_AARCH32);
}

void value_tests()
{
    RUN(test_one_owner_destroys_once);
    RUN(test_a_handle_given_and_taken);
    RUN(test_a_reference_calls_the_engine_that_made_it);
    RUN(test_errors);
    RUN(test_configuration_arrives);
    RUN(test_spans);
    RUN(test_flags);
}
