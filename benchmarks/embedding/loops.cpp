/* In C++, with p2mfast.hpp: linked, and through the capsule. SPDX-License-Identifier: Apache-2.0 */
#include "loops.h"

#include "p2mfast/p2mfast.hpp"

using p2mfast::P2mRef;
using p2mfast::Rights;
using Words = p2mfast::Span<const std::uint64_t>;

/* Not inlined: the compiler does not see which engine it is. */
__attribute__((noinline)) static std::uint64_t get_entries(P2mRef p2m, Words gfns)
{
    std::uint64_t sum = 0;

    for (std::uint64_t gfn : gfns) {
        auto entry = p2m.get_entry(gfn);

        if (!entry)
            return FAILED;
        sum += entry->mfn();
    }
    return sum;
}

__attribute__((noinline)) static std::uint64_t translate_blocks(P2mRef p2m, Words ipas)
{
    std::uint64_t sum = 0;

    for (std::uint64_t ipa : ipas) {
        auto entry = p2m.translate_block(ipa, Rights::Read);

        if (!entry)
            return FAILED;
        sum += entry->pa();
    }
    return sum;
}

static p2mfast::Api api_of(const p2mfast_capi_t *engine)
{
#define ENTRY(name) engine->name,
    return {P2MFAST_FUNCTIONS(ENTRY)};
#undef ENTRY
}

std::uint64_t cpp_linked_get_entry(p2mfast_t *p2m, const std::uint64_t *gfns, std::size_t n)
{
    return get_entries(P2mRef(p2m), {gfns, n});
}

std::uint64_t cpp_linked_translate_block(p2mfast_t *p2m, const std::uint64_t *ipas, std::size_t n)
{
    return translate_blocks(P2mRef(p2m), {ipas, n});
}

std::uint64_t cpp_capsule_get_entry(const p2mfast_capi_t *engine, p2mfast_t *p2m,
                                    const std::uint64_t *gfns, std::size_t n)
{
    p2mfast::Api api = api_of(engine);

    return get_entries(P2mRef(p2m, api), {gfns, n});
}

std::uint64_t cpp_capsule_translate_block(const p2mfast_capi_t *engine, p2mfast_t *p2m,
                                          const std::uint64_t *ipas, std::size_t n)
{
    p2mfast::Api api = api_of(engine);

    return translate_blocks(P2mRef(p2m, api), {ipas, n});
}
