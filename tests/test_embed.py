"""What embedders find in the package: the files are there and right, the engine in one file works,
and a module of another ABI version is refused. `.ci/embed` builds and runs whole examples."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

import pytest

import p2mfast as pf
from p2mfast import embed
from p2mfast.cli import main

ROOT = Path(__file__).parent.parent
HEADERS = ROOT / "csrc" / "include" / "p2mfast"
AMALGAMATE = ROOT / "tools" / "amalgamate.py"
WARNINGS = ("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror")

PROGRAM = r"""
#include <p2mfast/p2mfast.h>
#include <stdio.h>

/* Names that the engine has inside: an embedder may have them, too. */
int arena_take(void);
int p2m_lock(void);
int arena_take(void)
{
    return 40;
}
int p2m_lock(void)
{
    return 2;
}

int main(void)
{
    p2mfast_t *p2m = p2mfast_create(NULL);
    p2mfast_translation_t t = {0};

    p2mfast_set_entry(p2m, 0x40000, 512, 0x80000, P2MFAST_RAM_RW, P2MFAST_ACCESS_RWX, 0);
    p2mfast_translate(p2m, 0x40000123, P2MFAST_READ, &t);
    printf("%u %d %#llx\n", p2mfast_abi_version(), arena_take() + p2m_lock(),
           (unsigned long long)t.pa);
    p2mfast_destroy(p2m);
    return 0;
}
"""
PRINTED = "1 42 0x80000123\n"

MODULE = r"""
#include <p2mfast/p2mfast_capi.h>

static const p2mfast_capi_t *p2mfast;

static PyObject *mfn(PyObject *module, PyObject *p2m)
{
    p2mfast_t *handle = p2mfast->from_object(p2m);
    p2mfast_entry_t entry;

    (void)module;
    if (!handle)
        return NULL;
    p2mfast->get_entry(handle, 0x40005, &entry);
    return PyLong_FromUnsignedLongLong(entry.mfn);
}

static PyMethodDef methods[] = {{"mfn", mfn, METH_O, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, NAME, NULL, -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC INIT(void)
{
    p2mfast = p2mfast_import();
    return p2mfast ? PyModule_Create(&module) : NULL;
}
"""


def call(*command: str | Path) -> str:
    """Run a program; its output."""
    if shutil.which(command[0]) is None:
        pytest.fail(f"`{command[0]}` is needed in PATH: install a C compiler (gcc or clang)")
    result = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    if result.returncode:
        pytest.fail(f"{shlex.join(map(str, command))}: {result.returncode}\n{result.stdout}")
    return result.stdout


def names(file: Path) -> set[str]:
    """The names that an object or archive gives to the linker."""
    lines = call("nm", "-g", "--defined-only", file).splitlines()
    return {line.split()[2] for line in lines if len(line.split()) == 3}


def public_functions() -> set[str]:
    text = re.sub(r"/\*.*?\*/", "", (HEADERS / "p2mfast.h").read_text(), flags=re.S)
    return set(re.findall(r"^[a-z][\w *]*\b(p2mfast_\w+)\(", text, re.M))


@pytest.fixture(scope="module")
def amalgamation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made here and now from csrc/, with the public header beside it and nothing else."""
    directory = tmp_path_factory.mktemp("amalgamation")
    call(sys.executable, AMALGAMATE, directory / "p2mfast.c", "--version", pf.__version__)
    (directory / "p2mfast").mkdir()
    shutil.copy(HEADERS / "p2mfast.h", directory / "p2mfast")
    return directory / "p2mfast.c"


# ---- What is in the package ----


def test_every_header_is_there_as_it_is_in_the_sources() -> None:
    installed = Path(pf.get_include()) / "p2mfast"
    assert {path.name for path in installed.iterdir()} == {path.name for path in HEADERS.iterdir()}
    for header in HEADERS.iterdir():
        assert (installed / header.name).read_text() == header.read_text()


def test_the_installed_source_is_what_the_tool_makes(amalgamation: Path) -> None:
    (source,) = pf.get_sources()
    assert Path(source).read_text() == amalgamation.read_text()


def test_pkg_config_file(tmp_path: Path) -> None:
    """Its directories follow it: expanded by hand, they are those of the package."""
    file = Path(pf.get_pkgconfig_dir(), "p2mfast.pc")
    assert str(file.parent) not in file.read_text()
    values = {"pcfiledir": str(file.parent)}
    for line in file.read_text().splitlines():
        match = re.match(r"(\w+)(=|: )(.*)", line)
        if match:
            values[match[1]] = re.sub(r"\$\{(\w+)\}", lambda m: values[m[1]], match[3])
    assert Path(values["includedir"]).resolve() == Path(pf.get_include()).resolve()
    assert Path(values["libdir"]).resolve() == Path(pf.get_library_dir()).resolve()
    assert values["Version"] == pf.__version__
    program = tmp_path / "program.c"
    program.write_text(PROGRAM)
    flags = (*shlex.split(values["Cflags"]), program, *shlex.split(values["Libs"]))
    call("cc", *WARNINGS, *flags, "-o", tmp_path / "program")
    assert call(tmp_path / "program") == PRINTED


def test_entry_points_lead_to_the_files() -> None:
    (point,) = entry_points(group="pkg_config", name="p2mfast")
    spec = importlib.util.find_spec(point.value)
    assert spec is not None
    assert list(spec.submodule_search_locations or []) == [pf.get_pkgconfig_dir()]
    (point,) = entry_points(group="cmake.root", name="p2mfast")
    root = files(point.load())  # CMake looks below it, for lib/cmake/NAME/NAMEConfig.cmake
    assert str(root / "lib" / "cmake" / "p2mfast") == pf.get_cmake_dir()


def test_cython_declares_the_whole_header() -> None:
    """Each function of p2mfast.h with its arguments, each constant, each struct's members."""
    package = Path(pf.get_include()).parent
    pxd = re.sub(r"#.*", "", (package / "cp2mfast.pxd").read_text())
    header = re.sub(r"/\*.*?\*/", "", (HEADERS / "p2mfast.h").read_text(), flags=re.S)
    declared = " ".join(pxd.split()).replace("( ", "(")
    prototypes = re.findall(r"^[a-z][\w *]*\bp2mfast_\w+\([^;]*\);", header, re.M)
    assert {re.search(r"(p2mfast_\w+)\(", p)[1] for p in prototypes} == public_functions()
    for prototype in prototypes:
        assert " ".join(prototype.split())[:-1].replace("(void)", "()") in declared
    constants = set(re.findall(r"\bP2MFAST_[A-Z0-9_]+\b", header))
    constants -= {"P2MFAST_P2MFAST_H", "P2MFAST_CONFIG_DEFAULT"}
    assert constants <= set(re.findall(r"\w+", pxd))
    for body, name in re.findall(r"^typedef struct \w+ \{(.*?)^\} (\w+);", header, re.M | re.S):
        ours = re.search(rf"ctypedef struct {name}:\n((?:        .*\n)+)", pxd)
        assert ours is not None, name
        members = {" ".join(member.split()) for member in body.split(";")} - {""}
        hidden = {member for member in members if re.search(r" (reserved|geometry)\b", member)}
        assert {line.strip() for line in ours[1].splitlines()} == members - hidden


# ---- The engine as one file ----


@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_amalgamation_compiles_alone_and_gives_public_names_only(
    amalgamation: Path, tmp_path: Path, level: str
) -> None:
    output = tmp_path / "p2mfast.o"
    call("cc", *WARNINGS, level, f"-I{amalgamation.parent}", "-c", amalgamation, "-o", output)
    assert names(output) == public_functions()


def test_amalgamation_in_a_program_that_uses_our_inner_names(
    amalgamation: Path, tmp_path: Path
) -> None:
    program = tmp_path / "program.c"
    program.write_text(PROGRAM)
    call(
        "cc", *WARNINGS, f"-I{amalgamation.parent}", program, amalgamation, "-pthread",
        "-o", tmp_path / "program",
    )  # fmt: skip
    assert call(tmp_path / "program") == PRINTED


def test_amalgamation_keeps_apart_what_two_files_call_alike(tmp_path: Path) -> None:
    """A miniature engine whose two files have a function, a macro and a struct of the same name."""
    include = tmp_path / "include" / "p2mfast"
    include.mkdir(parents=True)
    (include / "p2mfast.h").write_text("int p2mfast_a(void);\nint p2mfast_b(void);\n")
    (tmp_path / "shared.h").write_text(
        "#ifndef P2MFAST_SHARED_H\n#define P2MFAST_SHARED_H\n"
        "struct pair {\n    int take;\n};\nint inner(void);\n#endif\n"
    )
    for name, value in (("a", 1), ("b", 2)):
        (tmp_path / f"{name}.c").write_text(
            f'#include "shared.h"\n#include "p2mfast/p2mfast.h"\n#define VALUE {value}\n'
            "struct own {\n    int value;\n};\n"
            "static int take(struct own own)\n{\n    return own.value;\n}\n"
            f"int p2mfast_{name}(void)\n{{\n    struct pair pair = {{.take = take((struct own)"
            "{VALUE})};\n    return pair.take * inner(); /* take */\n}\n"
        )
    (tmp_path / "inner.c").write_text('#include "shared.h"\nint inner(void)\n{\n    return 7;\n}\n')
    spec = importlib.util.spec_from_file_location("amalgamate", AMALGAMATE)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    text = tool.amalgamate("0", tmp_path)
    assert text.count("struct pair {") == 1
    assert "/* take */" in text
    (tmp_path / "one.c").write_text(
        text + "int main(void)\n{\n    return p2mfast_a() * 10 + p2mfast_b() - 84;\n}\n"
    )
    call("cc", *WARNINGS, f"-I{tmp_path}/include", tmp_path / "one.c", "-o", tmp_path / "one")
    call(tmp_path / "one")
    assert names(tmp_path / "one") & {"inner", "take", "p2mfast_a"} == {"p2mfast_a"}


# ---- The static library ----


def test_library_has_public_names_only_hidden_and_position_independent(tmp_path: Path) -> None:
    library = Path(pf.get_library_dir(), "libp2mfast.a")
    assert names(library) == public_functions()
    shared = tmp_path / "shared.so"
    call("cc", "-shared", "-Wl,--whole-archive", library, "-Wl,--no-whole-archive", "-pthread",
         "-o", shared)  # fmt: skip
    dynamic = call("nm", "-D", "--defined-only", shared)
    assert "p2mfast" not in dynamic
    assert "p2mfast_create" in call("nm", shared)
    assert ".debug_info" not in call("objdump", "-h", library)


def test_extension_modules_give_nothing_but_their_init_function() -> None:
    modules = list(Path(pf.__file__).parent.glob("*.so"))
    assert len(modules) >= 3
    for module in modules:
        lines = call("nm", "-D", "--defined-only", module).splitlines()
        exported = [line.split()[-1] for line in lines]
        assert exported == [f"PyInit_{module.name.partition('.')[0]}"]


# ---- Other modules in the same Python ----


def build(name: str, include: str, directory: Path) -> None:
    """The module above, against these headers."""
    source = directory / f"{name}.c"
    source.write_text(MODULE)
    call(
        "cc", *WARNINGS, "-shared", "-fPIC", f'-DNAME="{name}"', f"-DINIT=PyInit_{name}",
        f"-I{include}", "-isystem", sysconfig.get_path("include"), source,
        "-o", directory / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}",
    )  # fmt: skip


def test_an_extension_through_the_capsule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build("embedded_here", pf.get_include(), tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("embedded_here")
    p2m = pf.P2M()
    p2m.set_entry(0x40000, 512, 0x80000)
    assert module.mfn(p2m) == 0x80005
    with pytest.raises(TypeError, match=r"p2mfast\.P2M"):
        module.mfn(object())


def test_an_extension_of_another_abi_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(pf.get_include(), tmp_path / "include")
    header = tmp_path / "include" / "p2mfast" / "p2mfast.h"
    text, changes = re.subn(r"(#define P2MFAST_ABI_VERSION) \d+u", r"\1 4242u", header.read_text())
    assert changes == 1
    header.write_text(text)
    build("embedded_later", str(tmp_path / "include"), tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"version 4242 .* installed p2mfast has version \d+ "):
        importlib.import_module("embedded_later")


# ---- The command, and where files are missing ----


def test_the_command_answers_in_the_order_of_the_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "--libs", "--cflags"]) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words == [
        f"-L{pf.get_library_dir()}", "-lp2mfast", "-pthread", f"-I{pf.get_include()}",
    ]  # fmt: skip
    for option, answer in (
        ("--includedir", pf.get_include()),
        ("--libdir", pf.get_library_dir()),
        ("--sources", pf.get_sources()[0]),
        ("--cmakedir", pf.get_cmake_dir()),
        ("--pkgconfigdir", pf.get_pkgconfig_dir()),
    ):
        assert main(["embed", option]) == 0
        assert capsys.readouterr().out == f"{answer}\n"
        assert Path(answer).is_absolute()


def test_the_command_without_a_question(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed"]) == 2
    assert "--cflags" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("function", "missing"),
    [
        (pf.get_include, "p2mfast.h"),
        (pf.get_library_dir, "libp2mfast.a"),
        (pf.get_sources, "p2mfast.c"),
        (pf.get_cmake_dir, "p2mfastConfig.cmake"),
        (pf.get_pkgconfig_dir, "p2mfast.pc"),
    ],
)
def test_a_source_tree_that_was_not_installed(
    function, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "_PACKAGE", tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"{re.escape(missing)} is not there.*install it"):
        function()


def test_the_command_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "_PACKAGE", tmp_path)
    assert main(["embed", "--cflags"]) == 2
    assert "p2mfast.h is not there" in capsys.readouterr().err


def test_paths_are_told_without_numpy() -> None:
    """A build system may ask in an environment that has nothing else."""
    output = call(sys.executable, "-S", "-E", "-c", (
        "import runpy, sys;"
        f"names = runpy.run_path({embed.__file__!r});"
        "print(names['get_include'](), 'numpy' in sys.modules)"
    ))  # fmt: skip
    assert output == f"{pf.get_include()} False\n"
