/*
 * The same core without Python: a program that links the static library.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "core.hpp"

#include <cstdio>

int main()
{
    auto p2m = p2mfast::P2m::create(p2mfast::Config().ipa_bits(36));

    if (!p2m) {
        std::fprintf(stderr, "%s\n", p2m.words());
        return 1;
    }
    p2mfast::Status mapped = p2m->set_entry(0x40000, 1024, 0x80200);

    if (!mapped) {
        std::fprintf(stderr, "%s\n", mapped.words());
        return 1;
    }
    Core core(*p2m);

    for (std::uint64_t ipa = 0x40000000; ipa < 0x40010000; ipa += 1024)
        core.access(ipa, p2mfast::Rights::Read);
    core.access(0x50000000, p2mfast::Rights::Read);
    const Counts &counts = core.counts();
    std::printf("%llu TLB hits, %llu fills, %llu aborts\n",
                static_cast<unsigned long long>(counts.hits),
                static_cast<unsigned long long>(counts.fills),
                static_cast<unsigned long long>(counts.aborts));
    return counts.hits != 48 || counts.fills != 16 || counts.aborts != 1;
}
