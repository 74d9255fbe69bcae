/*
 * p2mfast_config_t for C++: part of p2mfast.hpp.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_CONFIG_HPP
#define P2MFAST_CONFIG_HPP

#include "p2mfast/p2mfast.h"
#include "p2mfast/values.hpp"

#include <type_traits>
#include <utility>

namespace p2mfast
{

namespace detail
{

template <template <class> class Call, class Host, class = void> struct Has : std::false_type {
};
template <template <class> class Call, class Host>
struct Has<Call, Host, std::void_t<Call<Host>>> : std::true_type {
};

template <class Host>
using TlbInvalidate =
    decltype(std::declval<Host &>().tlb_invalidate(std::declval<const Invalidation &>()));
template <class Host> using Allocate = decltype(std::declval<Host &>().allocate(std::size_t()));
template <class Host>
using Release = decltype(std::declval<Host &>().release(std::declval<void *>(), std::size_t()));
template <class Host>
using Log = decltype(std::declval<Host &>().log(std::declval<const char *>()));

} // namespace detail

/* p2mfast_config_t, built step by step: Config().ipa_bits(48).vmid(7). */
class Config
{
  public:
    Config &ipa_bits(unsigned bits)
    {
        raw_.ipa_bits = bits;
        return *this;
    }
    Config &pa_bits(unsigned bits)
    {
        raw_.pa_bits = bits;
        return *this;
    }
    Config &vmid(unsigned vmid)
    {
        raw_.vmid = vmid;
        return *this;
    }
    Config &max_tables(std::uint64_t tables)
    {
        raw_.max_tables = tables;
        return *this;
    }
    Config &table_base_mfn(std::uint64_t mfn)
    {
        raw_.table_base_mfn = mfn;
        return *this;
    }
    /* The tables lie in this memory of yours, whose first byte is frame base_mfn of the machine; a
     * rest below 4 KiB is not used. */
    Config &table_memory(Span<std::byte> memory, std::uint64_t base_mfn)
    {
        raw_.table_memory = memory.data();
        raw_.table_frames = memory.size() / 4096;
        return table_base_mfn(base_mfn);
    }
    /* What the engine asks of its surroundings, as methods of an object that outlives the P2M. It
     * has at least one of
     *     void tlb_invalidate(const p2mfast::Invalidation &)
     *     void *allocate(std::size_t) and void release(void *, std::size_t)
     *     void log(const char *)
     * An exception that leaves one of them ends the program: C is above it. For a plain function
     * and its context, set the fields of raw(). */
    template <class Host> Config &host(Host &host);

    p2mfast_config_t &raw()
    {
        return raw_;
    }
    const p2mfast_config_t &raw() const
    {
        return raw_;
    }

  private:
    p2mfast_config_t raw_ = P2MFAST_CONFIG_DEFAULT;
};

template <class Host> Config &Config::host(Host &host)
{
    constexpr bool invalidates = detail::Has<detail::TlbInvalidate, Host>::value;
    constexpr bool allocates = detail::Has<detail::Allocate, Host>::value;
    constexpr bool releases = detail::Has<detail::Release, Host>::value;
    constexpr bool logs = detail::Has<detail::Log, Host>::value;

    static_assert(invalidates || allocates || releases || logs,
                  "the host has none of tlb_invalidate, allocate and release, log");
    static_assert(allocates == releases, "the host has one of allocate and release, but not both");
    raw_.context = &host;
    if constexpr (invalidates)
        raw_.tlb_invalidate = [](void *context, const Invalidation *invalidation) noexcept {
            static_cast<Host *>(context)->tlb_invalidate(*invalidation);
        };
    if constexpr (allocates) {
        raw_.allocate = [](void *context, std::size_t bytes) noexcept -> void * {
            return static_cast<Host *>(context)->allocate(bytes);
        };
        raw_.release = [](void *context, void *memory, std::size_t bytes) noexcept {
            static_cast<Host *>(context)->release(memory, bytes);
        };
    }
    if constexpr (logs)
        raw_.log = [](void *context, const char *message) noexcept {
            static_cast<Host *>(context)->log(message);
        };
    return *this;
}

} // namespace p2mfast

#endif
