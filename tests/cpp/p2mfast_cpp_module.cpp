/*
 * An extension module as an embedder writes it: a simulator's few functions around Python's P2Ms.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "p2mfast/pybind11.hpp"

#include <pybind11/functional.h>

#include <memory>
#include <thread>

namespace py = pybind11;
using p2mfast::Api;
using p2mfast::Config;
using p2mfast::P2m;
using p2mfast::P2mRef;
using p2mfast::Rights;

namespace
{

/* Keeps what it is given for as long as it lives itself. */
struct Simulator {
    explicit Simulator(p2mfast::py::P2m given) : p2m(std::move(given))
    {
    }
    std::uint64_t read(std::uint64_t ipa)
    {
        return p2m.translate(ipa, Rights::Read).value().pa();
    }
    /* In a thread that Python has never seen. */
    void drop()
    {
        std::thread([this] { p2m = p2mfast::py::P2m(); }).join();
    }

    p2mfast::py::P2m p2m;
};

/* Leaves that to its user, by keep_alive. */
struct Borrower {
    explicit Borrower(P2mRef given) : p2m(given)
    {
    }

    P2mRef p2m;
};

} // namespace

static std::uint64_t mfn_of(P2mRef p2m, std::uint64_t gfn)
{
    return p2m.get_entry(gfn).value().mfn();
}

static P2m made(unsigned ipa_bits)
{
    P2m p2m = P2m::create(Config().ipa_bits(ipa_bits).vmid(77), p2mfast::py::engine()).value();

    p2m.set_entry(5, 1, 0x55).value();
    return p2m;
}

/* Handed on to another thread, and dropped there, while the GIL is not held. */
static std::uint64_t read_elsewhere(p2mfast::py::P2m p2m, std::uint64_t ipa)
{
    std::uint64_t pa = 0;
    py::gil_scoped_release released;
    std::thread thread([&pa, ipa, mine = std::move(p2m)]() mutable {
        p2mfast::py::P2m copy = mine;

        pa = copy.translate(ipa, Rights::Read).value().pa();
        mine = p2mfast::py::P2m();
    });

    thread.join();
    return pa;
}

PYBIND11_MODULE(p2mfast_cpp_module, m)
{
    p2mfast::py::import_engine();
    m.def("mfn_of", mfn_of, py::arg("p2m"), py::arg("gfn"));
    m.def("handle_of", [](P2mRef p2m) { return reinterpret_cast<std::uintptr_t>(p2m.handle()); });
    m.def("map", [](P2mRef p2m, std::uint64_t gfn, std::uint64_t nr, std::uint64_t mfn) {
        p2m.set_entry(gfn, nr, mfn).value();
    });
    m.def("same", [](p2mfast::py::P2m p2m) { return p2m; });
    m.def("moved", [](p2mfast::py::P2m p2m) {
        p2mfast::py::P2m taken = std::move(p2m);

        return py::make_tuple(taken, p2m, taken.handle() == p2m.handle());
    });
    m.def("none", [] { return p2mfast::py::P2m(); });
    m.def("make", made);
    m.def("make_shared",
          [](unsigned ipa_bits) { return p2mfast::py::P2m(p2mfast::py::adopt(made(ipa_bits))); });
    m.def("copy", [](P2mRef p2m) {
        return P2m::restore(p2m.checkpoint(), Config(), p2mfast::py::engine()).value();
    });
    /* As a library that brings its own engine would: another table of functions. */
    m.def("make_elsewhere", [] {
        static Api other = p2mfast::py::engine();

        return P2m::create(Config(), other).value();
    });
    m.def("overloaded", [](P2mRef) { return "p2m"; });
    m.def("overloaded", [](int) { return "int"; });
    m.def("overloaded_shared", [](p2mfast::py::P2m) { return "p2m"; });
    m.def("overloaded_shared", [](int) { return "int"; });
    m.def("call", [](const std::function<py::object(p2mfast::py::P2m)> &function,
                     p2mfast::py::P2m p2m) { return function(p2m); });
    m.def("read_elsewhere", read_elsewhere);
    py::class_<Simulator>(m, "Simulator")
        .def(py::init<p2mfast::py::P2m>())
        .def("read", &Simulator::read, py::call_guard<py::gil_scoped_release>())
        .def("drop", &Simulator::drop, py::call_guard<py::gil_scoped_release>())
        .def_property_readonly("p2m", [](const Simulator &simulator) { return simulator.p2m; });
    py::class_<Borrower>(m, "Borrower")
        .def(py::init<P2mRef>(), py::keep_alive<1, 2>())
        .def("mfn_of",
             [](const Borrower &borrower, std::uint64_t gfn) { return mfn_of(borrower.p2m, gfn); });
}
