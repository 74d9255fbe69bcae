"""p2mfast.hpp and pybind11.hpp: C++ over the engine, linked and through the capsule."""

from __future__ import annotations

import gc
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import weakref
from pathlib import Path
from types import ModuleType

import pybind11
import pytest

import p2mfast as pf

HERE = Path(__file__).parent / "cpp"
HEADERS = Path(__file__).parents[1] / "csrc" / "include"
INCLUDES = [
    "-isystem", sysconfig.get_path("include"), "-isystem", pybind11.get_include(),
]  # fmt: skip
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]


def run(*command: str | Path, **environment: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.fail(f"the C++ tests need `{command[0]}` in PATH: install a C++ compiler")
    result = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    if result.returncode:
        pytest.fail(f"{command}: status {result.returncode}\n{result.stdout}")
    return result.stdout


@pytest.mark.parametrize(("standard", "variant"), [("c++17", "plain"), ("c++20", "bare")])
def test_cpp_program(standard: str, variant: str) -> None:
    output = run("bash", HERE / "run.sh", CC="cc", CXX="c++", STANDARDS=standard, VARIANTS=variant)
    passed = re.search(r"^(\d+) passed, 0 failed$", output, re.M)
    assert passed, output
    assert int(passed[1]) > 0


def build(directory: Path, headers: Path, source: Path) -> Path:
    """The module, of these headers; what it needs of the engine it finds in the capsule.

    Without -fvisibility=hidden: the headers keep their own statics from other modules'.
    """
    target = directory / (source.stem + sysconfig.get_config_var("EXT_SUFFIX"))
    run(
        "c++", "-std=c++17", "-O0", "-shared", "-fPIC", *WARNINGS,
        *INCLUDES, f"-I{headers}", source, "-o", target, "-pthread",
    )  # fmt: skip
    return target


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.name.partition(".")[0], path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cpp(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return load(build(tmp_path_factory.mktemp("module"), HEADERS, HERE / "p2mfast_cpp_module.cpp"))


# ---- The page ----

PAGE = Path(__file__).parents[1] / "docs" / "embedding.md"
CODE = re.findall(r"^```(c|cpp)\n(.*?)^```", PAGE.read_text(), re.M | re.S)


@pytest.mark.parametrize(("language", "code"), CODE, ids=[code.splitlines()[0] for _, code in CODE])
def test_the_pages_code_compiles(language: str, code: str, tmp_path: Path) -> None:
    source = tmp_path / f"page.{language}"
    source.write_text(code)
    compiler, standard = {"c": ("cc", "-std=c11"), "cpp": ("c++", "-std=c++17")}[language]
    run(compiler, standard, "-fsyntax-only", *WARNINGS, *INCLUDES, f"-I{HEADERS}", source)


# ---- There ----


def test_a_function_works_on_pythons_p2m(cpp: ModuleType) -> None:
    p2m = pf.P2M()
    p2m.set_entry(0x40000, 512, 0x80000)
    assert cpp.mfn_of(p2m, 0x40003) == 0x80003
    cpp.map(p2m, 0x40003, 1, 0x1234)
    assert p2m.get_entry(0x40003).mfn == 0x1234
    assert p2m.stats.shattered == (0, 0, 1, 0)


def test_an_error_is_told(cpp: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="a frame beyond the address space"):
        cpp.mfn_of(pf.P2M(), 1 << 28)


@pytest.mark.parametrize("wrong", [None, 5, "P2M", object(), pf.P2M, pf.Host], ids=repr)
def test_anything_else_is_a_type_error(cpp: ModuleType, wrong: object) -> None:
    for function in (cpp.handle_of, cpp.same, cpp.Simulator, cpp.Borrower):
        with pytest.raises(TypeError, match=r"p2mfast\.P2M"):
            function(wrong)


def test_overloads_are_tried_in_turn(cpp: ModuleType) -> None:
    for function in (cpp.overloaded, cpp.overloaded_shared):
        assert (function(pf.P2M()), function(5)) == ("p2m", "int")


def test_a_subclass_is_a_p2m(cpp: ModuleType) -> None:
    class Mine(pf.P2M):
        pass

    mine = Mine()
    assert cpp.same(mine) is mine
    assert cpp.handle_of(mine)


# ---- And back ----


def test_what_came_in_goes_out_as_itself(cpp: ModuleType) -> None:
    p2m = pf.P2M()
    assert cpp.same(p2m) is p2m
    assert cpp.call(lambda given: given, p2m) is p2m
    assert cpp.Simulator(p2m).p2m is p2m
    assert cpp.moved(p2m) == (p2m, p2m, True)
    assert cpp.none() is None


@pytest.mark.parametrize("make", ["make", "make_shared"])
def test_a_new_one_is_pythons(cpp: ModuleType, make: str) -> None:
    p2m = getattr(cpp, make)(36)
    assert type(p2m) is pf.P2M
    assert (p2m.ipa_bits, p2m.vmid, p2m.get_entry(5).mfn) == (36, 77, 0x55)
    assert p2m.check() == []
    other = getattr(cpp, make)(36)
    p2m.set_entry(5, 1, None)
    assert other.get_entry(5).mfn == 0x55
    assert cpp.handle_of(p2m) != cpp.handle_of(other)


def test_a_checkpoint_in_cpp_is_a_copy(cpp: ModuleType) -> None:
    p2m = pf.P2M(42)
    p2m.set_entry(1 << 20, 77, 1 << 21)
    assert cpp.copy(p2m).checkpoint() != b""
    assert cpp.copy(p2m).mapped_runs().tolist() == p2m.mapped_runs().tolist()


def test_one_of_another_engine_is_refused(cpp: ModuleType) -> None:
    with pytest.raises(ValueError, match="another engine"):
        cpp.make_elsewhere()


# ---- Lifetime ----


def gone(reference: weakref.ref[pf.P2M]) -> bool:
    gc.collect()
    return reference() is None


@pytest.mark.parametrize("keeper", ["Simulator", "Borrower"])
def test_a_keeper_keeps_it_alive(cpp: ModuleType, keeper: str) -> None:
    p2m = pf.P2M()
    p2m.set_entry(3, 1, 0x33)
    reference = weakref.ref(p2m)
    kept = getattr(cpp, keeper)(p2m)
    del p2m
    assert not gone(reference)
    if keeper == "Simulator":
        assert kept.read(0x3123) == 0x33123
    else:
        assert kept.mfn_of(3) == 0x33
    del kept
    assert gone(reference)


def test_nothing_else_holds_on(cpp: ModuleType) -> None:
    p2m = pf.P2M()
    reference = weakref.ref(p2m)
    before = sys.getrefcount(p2m)
    cpp.same(p2m)
    cpp.handle_of(p2m)
    cpp.read_elsewhere(p2m, 0)
    cpp.call(lambda given: None, p2m)
    with pytest.raises(TypeError):
        cpp.mfn_of(p2m, "gfn")
    assert sys.getrefcount(p2m) == before
    del p2m
    assert gone(reference)


@pytest.mark.parametrize("make", ["make", "make_shared"])
def test_a_new_one_goes_with_its_last_reference(cpp: ModuleType, make: str) -> None:
    """Each has 64 GiB of addresses reserved: thousands that stayed would not fit the process."""
    references = [weakref.ref(getattr(cpp, make)(40)) for _ in range(3000)]
    assert all(map(gone, references[-1:]))
    assert not any(reference() for reference in references)


def test_the_last_reference_goes_in_a_thread_that_python_never_saw(cpp: ModuleType) -> None:
    ended: list[int] = []

    class Mine(pf.P2M):
        def __del__(self) -> None:
            ended.append(self.get_entry(3).mfn)

    mine = Mine()
    mine.set_entry(3, 1, 0x33)
    simulator = cpp.Simulator(mine)
    del mine
    assert ended == []
    simulator.drop()
    assert ended == [0x33]
    assert simulator.p2m is None


def test_it_is_dropped_in_a_thread_without_the_gil(cpp: ModuleType) -> None:
    p2m = pf.P2M()
    p2m.set_entry(3, 1, 0x33)
    found: list[int] = []

    def read() -> None:
        found.extend(cpp.read_elsewhere(p2m, 0x3000) for _ in range(200))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [0x33000] * 800


# ---- ABI ----


def copied_headers(directory: Path, changes: dict[str, tuple[str, str]]) -> Path:
    """Ours, with some text replaced in some files: those of another release."""
    headers = directory / "include"
    shutil.copytree(HEADERS, headers)
    for file, (old, new) in changes.items():
        header = headers / "p2mfast" / file
        text = header.read_text()
        assert old in text
        header.write_text(text.replace(old, new))
    return headers


def told(error: BaseException) -> str:
    """What a traceback ends with; pybind11 wraps the errors of a module's init in another."""
    return f"{error} {error.__cause__}"


MODULE = """
#include "p2mfast/pybind11.hpp"
PYBIND11_MODULE(%s, m)
{
    %s
    m.def("f", [](p2mfast::P2mRef) {});
}
"""
IMPORTS = "p2mfast::py::import_engine();"


def written(directory: Path, name: str, statement: str) -> Path:
    """A module's source; pybind11 keeps modules by name, so that each test has one of its own."""
    source = directory / f"{name}.cpp"
    source.write_text(MODULE % (name, statement))
    return source


def headers_of_version_99(directory: Path) -> Path:
    version = "#define P2MFAST_ABI_VERSION "
    return copied_headers(directory, {"p2mfast.h": (version + "1u", version + "99u")})


def test_another_abi_version_fails_at_import(tmp_path: Path) -> None:
    source = written(tmp_path, "other_version", IMPORTS)
    message = "compiled for p2mfast's ABI version 99 .* has version 1 .*: compile it again"
    path = build(tmp_path, headers_of_version_99(tmp_path), source)
    with pytest.raises(ImportError) as caught:
        load(path)
    assert re.search(message, told(caught.value))


def test_functions_that_the_installed_engine_has_not(tmp_path: Path) -> None:
    declared = "unsigned p2mfast_abi_version(void);\n"
    headers = copied_headers(
        tmp_path,
        {
            "p2mfast.h": (declared, declared + "unsigned p2mfast_tomorrow(void);\n"),
            "p2mfast_functions.h": ("    X(restore)\n", "    X(restore) X(tomorrow)\n"),
        },
    )
    path = build(tmp_path, headers, written(tmp_path, "of_tomorrow", IMPORTS))
    with pytest.raises(ImportError) as caught:
        load(path)
    assert re.search(r"version 1 with \d+ bytes .* compile it again", told(caught.value))


def test_a_module_that_forgot_to_import_fails_at_its_first_call(tmp_path: Path) -> None:
    source = written(tmp_path, "forgetful", "")
    module = load(build(tmp_path, headers_of_version_99(tmp_path), source))
    with pytest.raises(ImportError, match="ABI version 99"):
        module.f(pf.P2M())


def test_a_reference_cannot_be_returned(tmp_path: Path) -> None:
    source = written(tmp_path, "returns", 'm.def("g", [](p2mfast::P2mRef p2m) { return p2m; });')
    with pytest.raises(pytest.fail.Exception, match="does not know its Python object"):
        build(tmp_path, HEADERS, source)
