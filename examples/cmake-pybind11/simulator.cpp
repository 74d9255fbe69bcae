/*
 * The core as a Python class. Its P2M is one of Python's: simulator.Core(p2m) keeps it alive. The
 * module links nothing of p2mfast: import_engine() finds the installed one.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "core.hpp"

#include <p2mfast/pybind11.hpp>
#include <pybind11/stl.h>

#include <utility>
#include <vector>

namespace
{

class PythonCore
{
  public:
    explicit PythonCore(p2mfast::py::P2m p2m) : p2m_(std::move(p2m)), core_(p2m_)
    {
    }
    PythonCore(const PythonCore &) = delete;
    PythonCore &operator=(const PythonCore &) = delete;

    void store(const std::vector<std::uint64_t> &ipas)
    {
        pybind11::gil_scoped_release others_may_run;

        for (std::uint64_t ipa : ipas)
            core_.access(ipa, p2mfast::Rights::Write);
    }
    const Counts &counts() const
    {
        return core_.counts();
    }
    /* The very object that was given. */
    p2mfast::py::P2m p2m() const
    {
        return p2m_;
    }

  private:
    p2mfast::py::P2m p2m_;
    Core core_;
};

/* A new P2M, which Python owns from here on. */
p2mfast::P2m guest(std::uint64_t gfn, std::uint64_t nr, std::uint64_t mfn)
{
    p2mfast::P2m p2m =
        p2mfast::P2m::create(p2mfast::Config().ipa_bits(36), p2mfast::py::engine()).value();

    p2m.set_entry(gfn, nr, mfn).value();
    return p2m;
}

} // namespace

PYBIND11_MODULE(simulator, module)
{
    p2mfast::py::import_engine();
    pybind11::class_<Counts>(module, "Counts")
        .def_readonly("hits", &Counts::hits)
        .def_readonly("fills", &Counts::fills)
        .def_readonly("traps", &Counts::traps)
        .def_readonly("aborts", &Counts::aborts);
    pybind11::class_<PythonCore>(module, "Core")
        .def(pybind11::init<p2mfast::py::P2m>())
        .def("store", &PythonCore::store)
        .def_property_readonly("counts", &PythonCore::counts)
        .def_property_readonly("p2m", &PythonCore::p2m);
    module.def("guest", &guest, "A P2M with some RAM.");
}
