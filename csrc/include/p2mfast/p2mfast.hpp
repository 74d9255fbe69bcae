/*
 * p2mfast in C++17: the functions of p2mfast.h as two classes, with nothing to compile.
 *
 *     #include <p2mfast/p2mfast.hpp>
 *
 *     p2mfast::P2m p2m = p2mfast::P2m::create(p2mfast::Config().ipa_bits(40)).value();
 *     p2m.set_entry(0x40000, 512, 0x80000).value();
 *     p2mfast::TlbEntry hit = p2m.translate_block(0x40000123, p2mfast::Rights::Read).value();
 *     for (p2mfast::MappedRun run : p2m.mapped_runs())
 *         window(run.gfn(), run.mfn(), run.nr());
 *
 * P2m owns its tables and can be moved; P2mRef has the same methods on one that somebody else owns.
 * Each method does what the function of its name does: p2mfast.h has the contracts, and here stands
 * what is different. `const` methods look things up, the others may change something.
 *
 * Errors    come back as Status or Result<T>. Nothing throws but .value() of a failure, which ends
 *           the program where exceptions are off, and std::vector. No RTTI is used.
 * Engine    The functions are reached through a table, Api: linked() is that of the library which
 *           the program is linked with, and the default. A Python extension module that links
 *           nothing takes the one of the installed package (pybind11.hpp). Code that is handed a
 *           P2mRef works with either, since a P2mRef knows which engine made it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_P2MFAST_HPP
#define P2MFAST_P2MFAST_HPP

#include "p2mfast/p2mfast.h"
#include "p2mfast/config.hpp"
#include "p2mfast/values.hpp"
#include "p2mfast/walks.hpp"

#include <iterator>
#include <optional>
#include <utility>
#include <vector>

namespace p2mfast
{

/* ---- Ranges ---------------------------------------------------------------------------------- */

namespace detail
{

/* An input range over a source with `value_type` and `bool next(value_type &)`. One pass only. */
template <class Source> class Range
{
  public:
    class Iterator
    {
      public:
        using iterator_category = std::input_iterator_tag;
        using value_type = typename Source::value_type;
        using difference_type = std::ptrdiff_t;
        using pointer = const value_type *;
        using reference = const value_type &;

        Iterator() = default;
        explicit Iterator(Source &source) : source_(&source)
        {
            ++*this;
        }
        reference operator*() const
        {
            return value_;
        }
        pointer operator->() const
        {
            return &value_;
        }
        Iterator &operator++()
        {
            if (!source_->next(value_))
                source_ = nullptr;
            return *this;
        }
        void operator++(int)
        {
            ++*this;
        }
        friend bool operator==(const Iterator &a, const Iterator &b)
        {
            return a.source_ == b.source_;
        }
        friend bool operator!=(const Iterator &a, const Iterator &b)
        {
            return a.source_ != b.source_;
        }

      private:
        Source *source_ = nullptr;
        value_type value_{};
    };

    explicit Range(Source source) : source_(std::move(source))
    {
    }
    Iterator begin()
    {
        return Iterator(source_);
    }
    Iterator end()
    {
        return Iterator();
    }

  private:
    Source source_;
};

struct RunSource {
    using value_type = MappedRun;

    bool next(MappedRun &run)
    {
        return api->next_run(handle, &gfn, &run.raw) == 1;
    }

    p2mfast_t *handle;
    const Api *api;
    std::uint64_t gfn;
};

struct HarvestSource {
    using value_type = Span<const Run>;

    bool next(Span<const Run> &piece)
    {
        std::size_t n = 0;

        while (more && !n)
            more = api->harvest(handle, &cursor, buffer.data(), buffer.size(), &n) == 1;
        piece = Span<const Run>(buffer.data(), n);
        return n != 0;
    }

    p2mfast_t *handle;
    const Api *api;
    Span<Run> buffer;
    std::uint64_t cursor;
    bool more;
};

} // namespace detail

using MappedRuns = detail::Range<detail::RunSource>;
using HarvestedRuns = detail::Range<detail::HarvestSource>;

/* ---- Operations ------------------------------------------------------------------------------ */

/* The live descriptors: tables of 512 words, the first of which the MMU finds at frame base_mfn. */
struct Tables {
    Span<const std::uint64_t> words;
    std::uint64_t base_mfn;
};

/* What P2m and P2mRef have in common. */
class Operations
{
  public:
    p2mfast_t *handle() const
    {
        return handle_;
    }
    /* Of the engine that made it. */
    const Api &api() const
    {
        return *api_;
    }
    /* Whether there is a P2M: not after a move, nor in a P2mRef of nothing. All else needs one. */
    explicit operator bool() const
    {
        return handle_ != nullptr;
    }

    /* -- Facts -- */

    int root_level() const
    {
        return api_->root_level(handle_);
    }
    unsigned root_pages() const
    {
        return api_->root_pages(handle_);
    }
    unsigned ipa_bits() const
    {
        return api_->ipa_bits(handle_);
    }
    unsigned pa_bits() const
    {
        return api_->pa_bits(handle_);
    }
    unsigned vmid() const
    {
        return api_->vmid(handle_);
    }
    std::uint64_t vtcr() const
    {
        return api_->vtcr(handle_);
    }
    std::uint64_t vttbr() const
    {
        return api_->vttbr(handle_);
    }
    const char *vector_loops() const
    {
        return api_->vector_loops(handle_);
    }
    /* Empty while nothing was mapped. */
    std::optional<std::uint64_t> lowest_mapped_gfn() const
    {
        return gfn_or_none(api_->lowest_mapped_gfn(handle_));
    }
    std::optional<std::uint64_t> max_mapped_gfn() const
    {
        return gfn_or_none(api_->max_mapped_gfn(handle_));
    }
    Stats stats() const
    {
        Stats stats;

        api_->get_stats(handle_, &stats);
        return stats;
    }
    Tables tables() const
    {
        const std::uint64_t *first;
        std::uint64_t rows;
        std::uint64_t base_mfn;

        api_->tables(handle_, &first, &rows, &base_mfn);
        return {{first, static_cast<std::size_t>(rows) * 512}, base_mfn};
    }
    /* As many whole rows as `words` has room for. Returns how many there are. */
    std::uint64_t copy_tables(Span<std::uint64_t> words) const
    {
        return api_->copy_tables(handle_, words.data(), words.size() / 512);
    }

    /* -- Look-ups: never block -- */

    Result<Entry> get_entry(std::uint64_t gfn) const
    {
        return ask<Entry>([&](Entry &entry) { return api_->get_entry(handle_, gfn, &entry.raw); });
    }
    /* Argument, too: other numbers of GFNs and entries. */
    Status get_entries(Span<const std::uint64_t> gfns, Span<Entry> entries) const
    {
        return equal_then(gfns, entries, [&] {
            return api_->get_entries(handle_, gfns.data(), gfns.size(), raw(entries));
        });
    }
    Result<Translation> translate(std::uint64_t ipa, Rights rights) const
    {
        return ask<Translation>([&](Translation &translation) {
            return api_->translate(handle_, ipa, number(rights), &translation.raw);
        });
    }
    Status translate_many(Span<const std::uint64_t> ipas, Rights rights,
                          Span<Translation> results) const
    {
        return equal_then(ipas, results, [&] {
            return api_->translate_many(handle_, ipas.data(), ipas.size(), number(rights),
                                        raw(results));
        });
    }
    Result<TlbEntry> translate_block(std::uint64_t ipa, Rights rights) const
    {
        return ask<TlbEntry>([&](TlbEntry &entry) {
            return api_->translate_block(handle_, ipa, number(rights), &entry.raw);
        });
    }
    std::uint64_t tlb_generation() const
    {
        return api_->tlb_generation(handle_);
    }

    /* -- Updates -- */

    /* An MFN of P2MFAST_INVALID_MFN removes. */
    Status set_entry(std::uint64_t gfn, std::uint64_t nr, std::uint64_t mfn,
                     Type type = Type::RamRw, Access access = Access::RWX,
                     LeafFlags flags = LeafFlags::None)
    {
        return status(
            api_->set_entry(handle_, gfn, nr, mfn, number(type), number(access), number(flags)));
    }
    Status set_entries(Span<const std::uint64_t> gfns, Span<const std::uint64_t> mfns,
                       Type type = Type::RamRw, Access access = Access::RWX,
                       LeafFlags flags = LeafFlags::None)
    {
        return equal_then(gfns, mfns, [&] {
            return api_->set_entries(handle_, gfns.data(), mfns.data(), gfns.size(), number(type),
                                     number(access), number(flags));
        });
    }
    Status remove_mapping(std::uint64_t gfn, std::uint64_t nr, std::uint64_t mfn)
    {
        return status(api_->remove_mapping(handle_, gfn, nr, mfn));
    }
    /* True: more is left. */
    Result<bool> relinquish(std::uint64_t budget = P2MFAST_UNLIMITED)
    {
        return yes_or_no(api_->relinquish(handle_, budget));
    }
    std::uint64_t max_tables() const
    {
        return api_->max_tables(handle_);
    }
    Status set_max_tables(std::uint64_t tables)
    {
        return status(api_->set_max_tables(handle_, tables));
    }

    /* -- Access tracking -- */

    Status invalidate_root()
    {
        return status(api_->invalidate_root(handle_));
    }
    /* True: resolved, false: nothing is mapped there. */
    Result<bool> resolve_translation_fault(std::uint64_t gfn, Depth depth = Depth::Path,
                                           unsigned order = 0)
    {
        return yes_or_no(api_->resolve_translation_fault(handle_, gfn, number(depth), order));
    }
    Status resolve_translation_faults(Span<const std::uint64_t> gfns, Span<std::uint8_t> resolved,
                                      Depth depth = Depth::Path, unsigned order = 0)
    {
        return equal_then(gfns, resolved, [&] {
            return api_->resolve_translation_faults(handle_, gfns.data(), gfns.size(),
                                                    number(depth), order, resolved.data());
        });
    }
    /* Collects and arms piece by piece, as the loop goes on; each piece is a Span<const Run> of
     * `buffer` (at least one run long). Pieces, not single runs: what is in one is armed already,
     * and would be lost to a loop that is left within it. Left between two pieces, what is not yet
     * collected stays reachable and the root is not yet armed. */
    HarvestedRuns harvest(Span<Run> buffer)
    {
        return HarvestedRuns({handle_, api_, buffer, 0, true});
    }
    /* kinds: Rights as numbers. traps and faults as in p2mfast_access_many. */
    Status access_many(Span<const std::uint64_t> ipas, Span<const std::uint8_t> kinds,
                       Span<std::uint8_t> traps, Span<std::uint8_t> faults, bool resolve = true,
                       Depth depth = Depth::Path, unsigned order = 0)
    {
        if (ipas.size() != traps.size() || ipas.size() != faults.size())
            return status(P2MFAST_ERROR_ARGUMENT);
        return equal_then(ipas, kinds, [&] {
            return api_->access_many(handle_, ipas.data(), kinds.data(), ipas.size(), resolve,
                                     number(depth), order, traps.data(), faults.data());
        });
    }

    /* -- mem_access -- */

    Status enable_mem_access(bool enabled = true)
    {
        return status(api_->enable_mem_access(handle_, enabled));
    }
    bool mem_access_enabled() const
    {
        return api_->mem_access_enabled(handle_) != 0;
    }
    Status set_mem_access(std::uint64_t gfn, std::uint64_t nr, Access access)
    {
        return status(api_->set_mem_access(handle_, gfn, nr, number(access)));
    }

    /* -- Cache flush -- */

    /* The next runs of [flush.next_gfn, end) to clean, in `buffer`; flush.done at the end. An empty
     * piece that is not done has used its budget up. */
    Result<Span<const Run>> cache_flush_range(FlushState &flush, std::uint64_t end, Skip skip,
                                              Span<Run> buffer,
                                              std::uint64_t budget = P2MFAST_UNLIMITED) const
    {
        return ask<Span<const Run>>([&](Span<const Run> &piece) {
            std::size_t n = 0;
            int result = api_->cache_flush_range(handle_, &flush, end, number(skip), budget,
                                                 buffer.data(), buffer.size(), &n);

            piece = Span<const Run>(buffer.data(), n);
            return result < 0 ? result : P2MFAST_OK;
        });
    }

    /* -- What is there -- */

    /* Returns how many there are; as many as fit are written. */
    std::size_t words(int level, Span<Word> words) const
    {
        return api_->words(handle_, level, words.data(), words.size());
    }
    /* The mappings at or behind gfn, coalesced, one look a run: the P2M may change meanwhile. */
    MappedRuns mapped_runs(std::uint64_t gfn = 0) const
    {
        return MappedRuns({handle_, api_, gfn});
    }
    /* All of them at one moment. Returns how many there are; as many as fit are written. */
    std::size_t mapped_runs(Span<MappedRun> runs) const
    {
        return api_->mapped_runs(handle_, raw(runs), runs.size());
    }
    /* What is wrong with the tree; empty when it is sound. No more than the first 64. */
    std::vector<Finding> check() const
    {
        std::vector<std::uint8_t> seen(tables().words.size() / 512);
        std::vector<Finding> findings(64);
        std::size_t n =
            api_->check(handle_, seen.data(), seen.size(), findings.data(), findings.size());

        findings.resize(n < findings.size() ? n : findings.size());
        return findings;
    }
    /* The oldest events, as many as fit; returns them. */
    Span<const Event> drain_events(Span<Event> events)
    {
        return {events.data(), api_->drain_events(handle_, raw(events), events.size())};
    }
    std::size_t pending_events() const
    {
        return api_->pending_events(handle_);
    }

    /* -- Checkpoints -- */

    /* All of it; P2m::restore makes a P2M of it. */
    std::vector<std::byte> checkpoint() const
    {
        std::vector<std::byte> buffer;
        std::size_t size;

        /* It may grow and shrink while nobody holds its lock. */
        while ((size = api_->checkpoint(handle_, buffer.data(), buffer.size())) > buffer.size())
            buffer.resize(size);
        buffer.resize(size);
        return buffer;
    }

  protected:
    Operations(p2mfast_t *handle, const Api *api) : handle_(handle), api_(api)
    {
    }
    Operations(const Operations &) = default;
    Operations &operator=(const Operations &) = default;
    ~Operations() = default;

    Status status(int code) const
    {
        return Status(code, *api_);
    }

    p2mfast_t *handle_;
    const Api *api_;

  private:
    template <class Value, class Call> Result<Value> ask(Call call) const
    {
        return {*api_, call};
    }
    /* A positive answer is true. */
    Result<bool> yes_or_no(int answer) const
    {
        return ask<bool>([&](bool &value) {
            value = answer > 0;
            return answer < 0 ? answer : P2MFAST_OK;
        });
    }
    template <class A, class B, class Call> Status equal_then(Span<A> a, Span<B> b, Call call) const
    {
        return status(a.size() == b.size() ? call() : P2MFAST_ERROR_ARGUMENT);
    }
    static std::optional<std::uint64_t> gfn_or_none(std::uint64_t gfn)
    {
        return gfn == P2MFAST_INVALID_GFN ? std::nullopt : std::optional<std::uint64_t>(gfn);
    }
};

/* ---- The P2M --------------------------------------------------------------------------------- */

/* One that somebody else owns, and keeps for as long as this is used. Copied freely. */
class P2mRef : public Operations
{
  public:
    /* Of nothing. */
    P2mRef() : Operations(nullptr, nullptr)
    {
    }
    /* `api`: of the engine that made the handle. */
    explicit P2mRef(p2mfast_t *handle, const Api &api = linked()) : Operations(handle, &api)
    {
    }
};

/* Its only owner. */
class P2m : public Operations
{
  public:
    /* Of nothing. */
    P2m() : Operations(nullptr, nullptr)
    {
    }
    /* Becomes the owner of this handle, which `api` made. */
    explicit P2m(p2mfast_t *handle, const Api &api = linked()) : Operations(handle, &api)
    {
    }
    P2m(P2m &&other) noexcept : Operations(other.release(), other.api_)
    {
    }
    P2m &operator=(P2m &&other) noexcept
    {
        P2m taken(std::move(other)); /* before anything of this goes: they may be one */

        std::swap(handle_, taken.handle_);
        std::swap(api_, taken.api_);
        return *this;
    }
    ~P2m()
    {
        if (handle_)
            api_->destroy(handle_);
    }

    /* With the tables and the surroundings that `config` says. */
    static Result<P2m> create(const Config &config = Config(), const Api &api = linked())
    {
        return {api, [&](P2m &p2m) {
                    int error = P2MFAST_OK;

                    p2m = P2m(api.create_with_error(&config.raw(), &error), api);
                    return error;
                }};
    }
    /* As it was when checkpoint() was called; `config` says only where it is to live. */
    static Result<P2m> restore(Span<const std::byte> checkpoint, const Config &config = Config(),
                               const Api &api = linked())
    {
        return {api, [&](P2m &p2m) {
                    int error = P2MFAST_OK;

                    p2m = P2m(
                        api.restore(checkpoint.data(), checkpoint.size(), &config.raw(), &error),
                        api);
                    return error;
                }};
    }

    /* To be used no longer than this lives; a P2m that dies with its expression lends nothing. */
    operator P2mRef() &
    {
        return P2mRef(handle_, *api_);
    }
    operator P2mRef() && = delete;
    /* The handle, which is the caller's to destroy from now on. */
    p2mfast_t *release() noexcept
    {
        return std::exchange(handle_, nullptr);
    }
};

} // namespace p2mfast

#endif
