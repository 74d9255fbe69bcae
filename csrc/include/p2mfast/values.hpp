/*
 * What p2mfast.hpp's classes take and give: spans, enums, values, results, and the table of
 * functions that they call. Part of p2mfast.hpp.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_VALUES_HPP
#define P2MFAST_VALUES_HPP

#include "p2mfast/p2mfast_functions.h"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <type_traits>
#include <utility>

#if __cplusplus >= 202002L
#include <span>
#endif

namespace p2mfast
{

/* ---- Spans ----------------------------------------------------------------------------------- */

#if __cplusplus >= 202002L
template <class T> using Span = std::span<T>;
#else
/* As much of std::span as is needed: a pointer and a length, of an array or of whatever has data()
 * and size(). */
template <class T> class Span
{
    template <class From>
    using IfPointer = std::enable_if_t<std::is_convertible_v<From (*)[], T (*)[]>>;
    template <class Container>
    using Element = std::remove_pointer_t<decltype(std::declval<Container &>().data())>;

  public:
    constexpr Span() = default;
    constexpr Span(T *data, std::size_t size) : data_(data), size_(size)
    {
    }
    template <std::size_t n> constexpr Span(T (&array)[n]) : data_(array), size_(n)
    {
    }
    template <class Container, class = IfPointer<Element<Container>>>
    constexpr Span(Container &&container) : data_(container.data()), size_(container.size())
    {
    }
    constexpr T *data() const
    {
        return data_;
    }
    constexpr std::size_t size() const
    {
        return size_;
    }
    constexpr bool empty() const
    {
        return size_ == 0;
    }
    constexpr T &operator[](std::size_t i) const
    {
        return data_[i];
    }
    constexpr T *begin() const
    {
        return data_;
    }
    constexpr T *end() const
    {
        return data_ + size_;
    }

  private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};
#endif

/* ---- Enums ----------------------------------------------------------------------------------- */

/* enum p2mfast_error. */
enum class Errc : int {
    Ok = P2MFAST_OK,
    Argument = P2MFAST_ERROR_ARGUMENT,
    Range = P2MFAST_ERROR_RANGE,
    Tables = P2MFAST_ERROR_TABLES,
    Mismatch = P2MFAST_ERROR_MISMATCH,
    Memory = P2MFAST_ERROR_MEMORY,
    TableBase = P2MFAST_ERROR_TABLE_BASE,
    IpaBits = P2MFAST_ERROR_IPA_BITS,
    PaBits = P2MFAST_ERROR_PA_BITS,
    Corrupt = P2MFAST_ERROR_CORRUPT,
    Abi = P2MFAST_ERROR_ABI,
    Checkpoint = P2MFAST_ERROR_CHECKPOINT,
};

/* enum p2mfast_type. */
enum class Type : unsigned {
    Invalid = P2MFAST_INVALID,
    RamRw = P2MFAST_RAM_RW,
    RamRo = P2MFAST_RAM_RO,
    MmioDirectDev = P2MFAST_MMIO_DIRECT_DEV,
    MmioDirectNc = P2MFAST_MMIO_DIRECT_NC,
    MmioDirectC = P2MFAST_MMIO_DIRECT_C,
    MapForeignRw = P2MFAST_MAP_FOREIGN_RW,
    MapForeignRo = P2MFAST_MAP_FOREIGN_RO,
    GrantMapRw = P2MFAST_GRANT_MAP_RW,
    GrantMapRo = P2MFAST_GRANT_MAP_RO,
    IommuMapRw = P2MFAST_IOMMU_MAP_RW,
    IommuMapRo = P2MFAST_IOMMU_MAP_RO,
};

/* enum p2mfast_access. */
enum class Access : unsigned {
    N = P2MFAST_ACCESS_N,
    R = P2MFAST_ACCESS_R,
    W = P2MFAST_ACCESS_W,
    RW = P2MFAST_ACCESS_RW,
    X = P2MFAST_ACCESS_X,
    RX = P2MFAST_ACCESS_RX,
    WX = P2MFAST_ACCESS_WX,
    RWX = P2MFAST_ACCESS_RWX,
    RX2RW = P2MFAST_ACCESS_RX2RW,
    N2RWX = P2MFAST_ACCESS_N2RWX,
    R_PW = P2MFAST_ACCESS_R_PW,
    None = P2MFAST_NO_ACCESS, /* of a hole */
};

/* enum p2mfast_fault. */
enum class Fault : unsigned {
    None = P2MFAST_FAULT_NONE,
    Translation = P2MFAST_FAULT_TRANSLATION,
    Permission = P2MFAST_FAULT_PERMISSION,
    AccessFlag = P2MFAST_FAULT_ACCESS_FLAG,
    AddressSize = P2MFAST_FAULT_ADDRESS_SIZE,
    External = P2MFAST_FAULT_EXTERNAL,
};

enum class Depth : unsigned { Level = P2MFAST_DEPTH_LEVEL, Path = P2MFAST_DEPTH_PATH };

enum class Skip : unsigned {
    None = P2MFAST_SKIP_NONE,
    Leaf = P2MFAST_SKIP_LEAF,
    Path = P2MFAST_SKIP_PATH,
};

enum class Scope : unsigned { Range = P2MFAST_SCOPE_RANGE, Vmid = P2MFAST_SCOPE_VMID };

enum class EventKind : unsigned {
    TlbInvalidate = P2MFAST_EVENT_TLB_INVALIDATE,
    MappingRemoved = P2MFAST_EVENT_MAPPING_REMOVED,
};

/* Those that are or-ed. */
enum class Rights : unsigned {
    None = 0,
    Read = P2MFAST_READ,
    Write = P2MFAST_WRITE,
    Execute = P2MFAST_EXECUTE,
};

enum class LeafFlags : unsigned {
    None = 0,
    Armed = P2MFAST_ARMED,
    MaxOrder9 = P2MFAST_MAX_ORDER_9,
    MaxOrder0 = P2MFAST_MAX_ORDER_0,
};

enum class SyndromeFlags : unsigned {
    None = 0,
    Stage1Walk = P2MFAST_STAGE1_WALK,
    CacheOp = P2MFAST_CACHE_OP,
    AArch32 = P2MFAST_AARCH32,
};

/* The C API's number of an enumerator. */
template <class Enum> constexpr std::underlying_type_t<Enum> number(Enum value)
{
    return static_cast<std::underlying_type_t<Enum>>(value);
}

constexpr Rights operator|(Rights a, Rights b)
{
    return Rights(number(a) | number(b));
}
constexpr Rights operator&(Rights a, Rights b)
{
    return Rights(number(a) & number(b));
}
constexpr LeafFlags operator|(LeafFlags a, LeafFlags b)
{
    return LeafFlags(number(a) | number(b));
}
constexpr SyndromeFlags operator|(SyndromeFlags a, SyndromeFlags b)
{
    return SyndromeFlags(number(a) | number(b));
}

/* ---- Values: the structs of p2mfast.h -------------------------------------------------------- */

using Run = p2mfast_run_t;
using Word = p2mfast_word_t;
using Stats = p2mfast_stats_t;
using Finding = p2mfast_finding_t;
using FlushState = p2mfast_flush_t;
using Syndrome = p2mfast_syndrome_t;
using Invalidation = p2mfast_invalidation_t;

/* Those with enums in them: the struct, and its fields by their types. */
struct Entry {
    std::uint64_t mfn() const
    {
        return raw.mfn;
    }
    Type type() const
    {
        return Type(raw.type);
    }
    unsigned order() const
    {
        return raw.order;
    }
    bool valid() const
    {
        return raw.valid;
    }
    bool reachable() const
    {
        return raw.reachable;
    }
    Access access() const
    {
        return Access(raw.access);
    }

    p2mfast_entry_t raw;
};

struct Translation {
    std::uint64_t pa() const
    {
        return raw.pa;
    }
    std::uint64_t attrs() const
    {
        return raw.attrs;
    }
    int level() const
    {
        return raw.level;
    }
    Fault fault() const
    {
        return Fault(raw.fault);
    }

    p2mfast_translation_t raw;
};

struct TlbEntry {
    std::uint64_t ipa() const
    {
        return raw.ipa;
    }
    std::uint64_t pa() const
    {
        return raw.pa;
    }
    std::uint64_t size() const
    {
        return raw.size;
    }
    std::uint64_t descriptor() const
    {
        return raw.descriptor;
    }
    Rights rights() const
    {
        return Rights(raw.rights);
    }
    unsigned memattr() const
    {
        return raw.memattr;
    }
    unsigned shareability() const
    {
        return raw.shareability;
    }
    int level() const
    {
        return raw.level;
    }
    Fault fault() const
    {
        return Fault(raw.fault);
    }
    unsigned reads() const
    {
        return raw.reads;
    }

    p2mfast_tlb_entry_t raw;
};

struct MappedRun {
    std::uint64_t gfn() const
    {
        return raw.gfn;
    }
    std::uint64_t mfn() const
    {
        return raw.mfn;
    }
    std::uint64_t nr() const
    {
        return raw.nr;
    }
    Type type() const
    {
        return Type(raw.type);
    }

    p2mfast_mapped_run_t raw;
};

struct Event {
    EventKind kind() const
    {
        return EventKind(raw.kind);
    }
    std::uint64_t gfn() const
    {
        return raw.gfn;
    }
    std::uint64_t nr() const
    {
        return raw.nr;
    }
    std::uint64_t mfn() const
    {
        return raw.mfn;
    }
    Type type() const
    {
        return Type(raw.type);
    }

    p2mfast_event_t raw;
};

/* An array of them as the C API takes it. */
template <class T> auto raw(Span<T> values) -> decltype(&values.data()->raw)
{
    static_assert(sizeof(T) == sizeof(values.data()->raw), "nothing but the struct is in it");
    return values.empty() ? nullptr : &values.data()->raw;
}

/* ---- The table of functions ------------------------------------------------------------------ */

/* An engine: its functions. */
struct Api {
#define P2MFAST_API_FIELD(name) decltype(&p2mfast_##name) name;
    P2MFAST_FUNCTIONS(P2MFAST_API_FIELD)
#undef P2MFAST_API_FIELD
};

/* The library that the program is linked with. Hidden, so that two extension modules that each
 * brought their own do not come to share the first one's table. */
__attribute__((visibility("hidden"))) inline const Api &linked()
{
#define P2MFAST_API_ENTRY(name) p2mfast_##name,
    static constexpr Api table = {P2MFAST_FUNCTIONS(P2MFAST_API_ENTRY)};
#undef P2MFAST_API_ENTRY
    return table;
}

/* ---- Results --------------------------------------------------------------------------------- */

#if defined(__cpp_exceptions)
/* What value() of a failure throws. */
class Error : public std::exception
{
  public:
    Error(Errc code, const char *words) : code_(code), words_(words)
    {
    }
    Errc code() const
    {
        return code_;
    }
    const char *what() const noexcept override
    {
        return words_;
    }

  private:
    Errc code_;
    const char *words_; /* the engine's, which live on */
};
#endif

/* Whether something was done, and if not, why. */
class [[nodiscard]] Status
{
  public:
    Status(int code, const Api &api) : code_(code), api_(&api)
    {
    }
    explicit operator bool() const
    {
        return code_ == P2MFAST_OK;
    }
    Errc error() const
    {
        return Errc(code_);
    }
    /* For a person. */
    const char *words() const
    {
        return api_->error_words(code_);
    }
    /* Throws Error for a failure; ends the program where exceptions are off. */
    void value() const
    {
        if (code_ == P2MFAST_OK)
            return;
#if defined(__cpp_exceptions)
        throw Error(error(), words());
#else
        std::abort();
#endif
    }

  private:
    template <class Value> friend class Result;

    int code_;
    const Api *api_;
};

/* A value, or why there is none. */
template <class Value> class [[nodiscard]] Result
{
  public:
    /* What this call gives: it writes the value, which has no content before, and returns 0 or a
     * negative error. */
    template <class Call> Result(const Api &api, Call call) : status_(P2MFAST_OK, api)
    {
        status_.code_ = call(value_);
    }
    explicit operator bool() const
    {
        return static_cast<bool>(status_);
    }
    Errc error() const
    {
        return status_.error();
    }
    const char *words() const
    {
        return status_.words();
    }
    const Status &status() const
    {
        return status_;
    }
    /* Only where there is one. */
    Value &operator*()
    {
        return value_;
    }
    Value *operator->()
    {
        return &value_;
    }
    /* The same, but looks: see Status::value(). */
    Value &value() &
    {
        status_.value();
        return value_;
    }
    Value value() &&
    {
        status_.value();
        return std::move(value_);
    }

  private:
    Value value_;
    Status status_;
};

} // namespace p2mfast

#endif
