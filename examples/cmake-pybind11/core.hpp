/*
 * A simulated core's memory accesses: a TLB, and behind it a P2M of p2mfast's. The same class
 * serves the Python module (simulator.cpp) and a program without Python (standalone.cpp).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef CORE_HPP
#define CORE_HPP

#include <p2mfast/p2mfast.hpp>

#include <array>
#include <cstdint>

struct Counts {
    std::uint64_t hits = 0;
    std::uint64_t fills = 0;
    std::uint64_t traps = 0;
    std::uint64_t aborts = 0;
};

class Core
{
  public:
    /* The P2M must live on. */
    explicit Core(p2mfast::P2mRef p2m) : p2m_(p2m)
    {
    }

    /* One access. Whatever was armed is made reachable, as a hypervisor does it after a trap. */
    void access(std::uint64_t ipa, p2mfast::Rights rights)
    {
        if (generation_ != p2m_.tlb_generation())
            flush();
        p2mfast::TlbEntry &entry = tlb_[(ipa >> 12) % tlb_.size()];

        if (ipa - entry.ipa() < entry.size() && (entry.rights() & rights) == rights) {
            counts_.hits++;
            return;
        }
        entry = walk(ipa, rights);
        if (entry.fault() == p2mfast::Fault::Translation &&
            p2m_.resolve_translation_fault(ipa >> 12).value()) {
            counts_.traps++;
            entry = walk(ipa, rights);
        }
        if (entry.fault() == p2mfast::Fault::None) {
            counts_.fills++;
        } else {
            counts_.aborts++;
            entry = {};
        }
    }

    const Counts &counts() const
    {
        return counts_;
    }

  private:
    p2mfast::TlbEntry walk(std::uint64_t ipa, p2mfast::Rights rights) const
    {
        return p2m_.translate_block(ipa, rights).value();
    }
    /* The generation first: what is invalidated meanwhile is then noticed at the next access. */
    void flush()
    {
        generation_ = p2m_.tlb_generation();
        tlb_.fill({});
    }

    p2mfast::P2mRef p2m_;
    std::array<p2mfast::TlbEntry, 256> tlb_{};
    std::uint64_t generation_ = UINT64_MAX;
    Counts counts_;
};

#endif
