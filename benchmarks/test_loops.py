"""Every loop of `p2mfast bench` under pytest-benchmark, by the same names.

`extra_info` has what the hardware's limit was in the same run, and the ratio. The work is checked
for right answers; no time is asserted. Loops that take several GiB of memory run with `--large`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from p2mfast.experiment import bench, loops


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = loops.names(metafunc.config.getoption("large"))
    ids = [f"{name} ({size})" for name, size in names]
    metafunc.parametrize(("name", "size"), names, ids=ids)


def test_loop(benchmark, report: Callable[[bench.Result], None], name: str, size: str) -> None:
    case = loops.build(name, size)
    benchmark.group = name

    def prepare() -> None:  # what it returns would be taken for arguments
        case.prepare()

    benchmark.pedantic(case.work, setup=prepare, rounds=case.rounds, warmup_rounds=1)
    assert case.right()
    if not benchmark.disabled:
        report(bench.measure_case(name, size, case))
