"""What every loop of test_loops.py says besides its time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from p2mfast.experiment.bench import Result
from p2mfast.experiment.report import bench_table

_results: list[Result] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--large", action="store_true", help="also the loops that take up to 8 GiB of memory"
    )


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """A saved baseline is for others to compare with: it says what kind of machine, not which."""
    cpu = {key: machine_info["cpu"].get(key) for key in ("arch", "brand_raw", "count")}
    kept = {key: machine_info[key] for key in ("machine", "system", "python_version")}
    machine_info.clear()
    machine_info.update(kept, cpu=cpu)


def pytest_benchmark_update_commit_info(config: pytest.Config, commit_info: dict[str, Any]) -> None:
    """And which commit, not in which folder."""
    for key in ("project", "branch"):
        commit_info.pop(key, None)


@pytest.fixture
def report(benchmark) -> Callable[[Result], None]:
    """report(result): the limit measured beside the loop, and their ratio, into `extra_info`."""

    def fill(result: Result) -> None:
        benchmark.extra_info.update(result.to_json())
        _results.append(result)

    return fill


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The ratios, after pytest-benchmark's own tables."""
    if _results:
        terminalreporter.section("against the limit measured in the same run")
        Console().print(bench_table(_results))
