/*
 * Walks that do not block, and what an abort leaves in EL2's registers: part of p2mfast.hpp.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_WALKS_HPP
#define P2MFAST_WALKS_HPP

#include "p2mfast/p2mfast.h"
#include "p2mfast/values.hpp"

namespace p2mfast
{

/* A translation regime: what VTTBR_EL2 and VTCR_EL2 say (p2mfast_regime_t). */
class Regime
{
  public:
    /* pa_bits 0: VTCR.PS. */
    static Result<Regime> decode(std::uint64_t vttbr, std::uint64_t vtcr, unsigned pa_bits = 0,
                                 const Api &api = linked())
    {
        return {api, [&](Regime &regime) {
                    regime.api_ = &api;
                    return api.regime(vttbr, vtcr, pa_bits, &regime.raw_);
                }};
    }
    const p2mfast_regime_t &raw() const
    {
        return raw_;
    }
    const Api &api() const
    {
        return *api_;
    }

  private:
    friend class Result<Regime>;
    Regime() = default;

    p2mfast_regime_t raw_;
    const Api *api_;
};

/* A walk under way, a descriptor at a time:
 *
 *     p2mfast::Walk walk = p2mfast::Walk::begin(regime, ipa, p2mfast::Rights::Read).value();
 *     while (!walk.done())
 *         walk.step(my_memory_read64(walk.address()));
 *     walk.result();      // the translation or the fault
 *
 * It may be copied and put aside between two steps. The regime must live on, at its place. */
class Walk
{
  public:
    static Result<Walk> begin(const Regime &regime, std::uint64_t ipa, Rights rights)
    {
        const Api &api = regime.api();

        return {api, [&](Walk &walk) {
                    int more = api.walk_begin(&walk.raw_, &regime.raw(), ipa, number(rights));

                    walk.api_ = &api;
                    walk.more_ = more == 1;
                    return more < 0 ? more : P2MFAST_OK;
                }};
    }
    static Result<Walk> begin(Regime &&regime, std::uint64_t ipa, Rights rights) = delete;

    bool done() const
    {
        return !more_;
    }
    /* Unless it is done: read the 8 bytes at this physical address, then step, or abort. */
    std::uint64_t address() const
    {
        return raw_.address;
    }
    void step(std::uint64_t descriptor)
    {
        more_ = api_->walk_step(&raw_, descriptor) == 1;
    }
    /* The read failed: the walk ends in an external abort. */
    void abort()
    {
        api_->walk_abort(&raw_);
        more_ = false;
    }
    /* Once it is done. */
    TlbEntry result() const
    {
        return {raw_.result};
    }

  private:
    friend class Result<Walk>;
    Walk() = default;

    p2mfast_walk_t raw_;
    const Api *api_;
    bool more_;
};

/* ESR_EL2 and HPFAR_EL2 after such a fault, as p2mfast_syndrome. */
inline Result<Syndrome> syndrome(Fault fault, int level, std::uint64_t ipa, Rights rights,
                                 SyndromeFlags flags = SyndromeFlags::None,
                                 const Api &api = linked())
{
    return {api, [&](Syndrome &syndrome) {
                return api.syndrome(number(fault), level, ipa, number(rights), number(flags),
                                    &syndrome);
            }};
}

} // namespace p2mfast

#endif
