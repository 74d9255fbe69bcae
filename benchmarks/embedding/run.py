"""What a look-up costs in C, C++ and Cython, linked and through the capsule: the same.

One loop, compiled in each language in the same way, over tables that fit a core's cache, so that
the way to the engine weighs as much as it ever does. The ways are timed in turn in one process;
ratios to linked C are medians of the rounds' own. Needs a C++ compiler and Cython:
`python benchmarks/embedding/run.py [ROUNDS]`.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import ModuleType

import numpy as np
import numpy.typing as npt

import p2mfast as pf

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
WAYS = [
    "c_linked",
    "c_capsule",
    "cpp_linked",
    "cpp_capsule",
    "cython_capsule",
    "cython_method",
]
PAGES = 1 << 15
LOOK_UPS = 1 << 13
GOAL = 1.05


def build(directory: Path) -> ModuleType:
    """The loops and an engine of their own, in an extension module."""
    name = "embedding_loops"
    package = Path(pf.__file__).parents[1]
    target = directory / (name + sysconfig.get_config_var("EXT_SUFFIX"))
    flags = [
        "-O3", "-fPIC", "-fvisibility=hidden", "-fno-semantic-interposition", f"-I{CSRC}",
        f"-I{CSRC / 'include'}", f"-I{HERE}", f"-I{sysconfig.get_path('include')}",
        f"-I{np.get_include()}", "-DNPY_NO_DEPRECATED_API=NPY_2_0_API_VERSION",
    ]  # fmt: skip
    cython: list[str | Path] = [sys.executable, "-m", "cython", "-I", package, HERE / f"{name}.pyx"]
    c_sources = [directory / f"{name}.c", HERE / "loops.c", *CSRC.glob("*.c")]
    commands: list[list[str | Path]] = [
        [*cython, "-o", directory / f"{name}.c"],
        ["cc", "-std=c11", *flags, "-c", *c_sources],
        ["c++", "-std=c++17", *flags, "-c", HERE / "loops.cpp", "-o", "loops_cpp.o"],
    ]
    for command in commands:
        subprocess.run(command, cwd=directory, check=True)
    subprocess.run(["c++", "-shared", *directory.glob("*.o"), "-o", target], check=True)
    spec = importlib.util.spec_from_file_location(name, target)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure(
    loops: object, what: str, words: npt.NDArray[np.uint64], rounds: int
) -> dict[str, tuple[float, float]]:
    """Nanoseconds a look-up, and the ratio to linked C, of each way."""
    calls = {way: getattr(loops, f"{way}_{what}") for way in WAYS}
    answers = {call(words) for call in calls.values()}
    assert len(answers) == 1, f"the ways differ: {answers}"
    samples: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds):
        # Each round starts with another one: what comes after what is not always the same.
        for way in WAYS[number % len(WAYS) :] + WAYS[: number % len(WAYS)]:
            started = time.perf_counter_ns()
            calls[way](words)
            samples[way].append((time.perf_counter_ns() - started) / len(words))
    reference = samples["c_linked"]
    return {
        way: (median(ns), median(a / b for a, b in zip(ns, reference, strict=True)))
        for way, ns in samples.items()
    }


def main(rounds: int) -> None:
    """Print the table."""
    p2m = pf.P2M(40)
    p2m.set_entry(0, PAGES, 1, max_order=0)
    gfns = np.random.default_rng(7).integers(0, PAGES, LOOK_UPS, dtype=np.uint64)
    with TemporaryDirectory() as directory:
        loops = build(Path(directory)).Loops(p2m)
        print(f"{'':16}{'':14}{'ns':>8}{'ratio':>8}   goal {GOAL}")
        for what, words in (("get_entry", gfns), ("translate_block", gfns << np.uint64(12))):
            for way, (ns, ratio) in measure(loops, what, words, rounds).items():
                missed = "" if ratio <= GOAL else "   missed"
                print(f"{what:16}{way:14}{ns:8.2f}{ratio:8.3f}{missed}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2001)
