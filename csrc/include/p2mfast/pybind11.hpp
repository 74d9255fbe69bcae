/*
 * Python's p2mfast.P2M in C++ functions, with pybind11. The module works on the engine of the
 * installed package, through its capsule, and links nothing:
 *
 *     #include <p2mfast/pybind11.hpp>
 *
 *     PYBIND11_MODULE(simulator, m)
 *     {
 *         p2mfast::py::import_engine();
 *         m.def("count", [](p2mfast::P2mRef p2m) { ... });
 *     }
 *
 * as argument   p2mfast::P2mRef     borrowed: for the call, or for as long as pybind11::keep_alive
 *               p2mfast::py::P2m    shared: keeps the Python object alive; any thread may drop it
 * as result     p2mfast::py::P2m    the very object that came in
 *               p2mfast::P2m        a new p2mfast.P2M, which owns it; only if it was made with
 *                                   p2mfast::py::engine(): P2m::create(config, engine())
 *
 * Anything but a p2mfast.P2M is a TypeError, as for every class that pybind11 knows. The methods
 * need no GIL. What they throw, p2mfast::Error, becomes a RuntimeError.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef P2MFAST_PYBIND11_HPP
#define P2MFAST_PYBIND11_HPP

#include <pybind11/pybind11.h>

#include "p2mfast/p2mfast.hpp"
#include "p2mfast/p2mfast_capi.h"

#include <atomic>
#include <memory>
#include <stdexcept>
#include <type_traits>
#include <utility>

namespace p2mfast
{

/* Hidden as pybind11 itself is: what is static in here is each module's own. */
#pragma GCC visibility push(hidden)
namespace py
{

/* The capsule's table. Throws pybind11::error_already_set (ImportError) where no engine is
 * installed, or one of another ABI version than this module was compiled for. Needs the GIL
 * until it has succeeded once. */
inline const p2mfast_capi_t &capsule()
{
    /* Not initialised where it is declared: an import may hand the GIL on to a thread that
     * comes here, too, and would wait for ever. */
    static std::atomic<const p2mfast_capi_t *> imported{nullptr};
    const p2mfast_capi_t *table = imported.load(std::memory_order_acquire);

    if (!table) {
        table = p2mfast_import();
        if (!table)
            throw pybind11::error_already_set();
        imported.store(table, std::memory_order_release);
    }
    return *table;
}

/* The installed engine's functions, for P2m::create, P2m::restore, Regime::decode, syndrome. */
inline const Api &engine()
{
    const p2mfast_capi_t &table = capsule();
#define P2MFAST_API_ENTRY(name) table.name,
    static const Api api = {P2MFAST_FUNCTIONS(P2MFAST_API_ENTRY)};
#undef P2MFAST_API_ENTRY

    return api;
}

/* First thing in PYBIND11_MODULE, so that it is the import of the module that fails. */
inline void import_engine()
{
    engine();
}

/* A p2mfast.P2M, kept alive. Copies share it; they may be made and dropped in any thread, with
 * the GIL or without. */
class P2m : public Operations
{
  public:
    /* Of nothing. */
    P2m() : Operations(nullptr, nullptr)
    {
    }
    /* A copy for a move: none is ever left with a handle that nothing keeps. */
    P2m(const P2m &) = default;
    P2m &operator=(const P2m &) = default;
    /* Throws pybind11::error_already_set (TypeError) for anything but a p2mfast.P2M. */
    explicit P2m(pybind11::object object)
        : Operations(capsule().from_object(object.ptr()), &engine())
    {
        if (!handle_)
            throw pybind11::error_already_set();
        object_ = std::shared_ptr<PyObject>(object.release().ptr(), drop);
    }
    operator P2mRef() &
    {
        return P2mRef(handle_, *api_);
    }
    operator P2mRef() && = delete;
    /* Needs the GIL. None where there is nothing. */
    pybind11::object object() const
    {
        return object_ ? pybind11::reinterpret_borrow<pybind11::object>(object_.get())
                       : pybind11::none();
    }

  private:
    static void drop(PyObject *object)
    {
        if (!Py_IsInitialized())
            return; /* it went with its interpreter */
        pybind11::gil_scoped_acquire gil;

        Py_DECREF(object);
    }

    std::shared_ptr<PyObject> object_;
};

/* A new p2mfast.P2M around it. */
inline pybind11::object adopt(p2mfast::P2m p2m)
{
    if (!p2m)
        return pybind11::none();
    if (&p2m.api() != &engine())
        throw std::invalid_argument(
            "this P2m was made by another engine than p2mfast's: make it with"
            " p2mfast::py::engine()");
    PyObject *object = capsule().adopt(p2m.handle());

    if (!object)
        throw pybind11::error_already_set();
    p2m.release();
    return pybind11::reinterpret_steal<pybind11::object>(object);
}

} // namespace py
#pragma GCC visibility pop

} // namespace p2mfast

namespace pybind11
{
namespace detail
{

template <> struct type_caster<p2mfast::P2mRef> {
    PYBIND11_TYPE_CASTER(p2mfast::P2mRef, const_name("p2mfast.P2M"));

    bool load(handle source, bool)
    {
        p2mfast_t *p2m = p2mfast::py::capsule().from_object(source.ptr());

        if (!p2m) { /* pybind11 tries the other overloads, and raises a TypeError of its own */
            PyErr_Clear();
            return false;
        }
        value = p2mfast::P2mRef(p2m, p2mfast::py::engine());
        return true;
    }
    template <class Ref> static handle cast(Ref &&, return_value_policy, handle)
    {
        static_assert(!std::is_same_v<std::decay_t<Ref>, p2mfast::P2mRef>,
                      "a P2mRef does not know its Python object: take and return"
                      " p2mfast::py::P2m, or return a p2mfast::P2m that is new");
        return handle();
    }
};

template <> struct type_caster<p2mfast::py::P2m> {
    PYBIND11_TYPE_CASTER(p2mfast::py::P2m, const_name("p2mfast.P2M"));

    bool load(handle source, bool)
    {
        if (!p2mfast::py::capsule().from_object(source.ptr())) {
            PyErr_Clear();
            return false;
        }
        value = p2mfast::py::P2m(reinterpret_borrow<object>(source));
        return true;
    }
    static handle cast(const p2mfast::py::P2m &p2m, return_value_policy, handle)
    {
        return p2m.object().release();
    }
};

/* A result alone: Python's P2Ms cannot be taken from Python. */
template <> struct type_caster<p2mfast::P2m> {
    static constexpr auto name = const_name("p2mfast.P2M");

    static handle cast(p2mfast::P2m &&p2m, return_value_policy, handle)
    {
        return p2mfast::py::adopt(std::move(p2m)).release();
    }
};

} // namespace detail
} // namespace pybind11

#endif
