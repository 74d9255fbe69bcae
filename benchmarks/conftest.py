"""Every benchmark says what one unit cost, and what the hardware's limit for it was in the same
run: `extra_info` has both and their ratio. Nothing here asserts a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

_rows: list[tuple[str, dict]] = []


@pytest.fixture
def report(benchmark) -> Callable[[int, float, str], None]:
    """report(units, limit in ns a unit, what the limit is): fills in `extra_info`."""

    def fill(units: int, limit_ns: float, limit: str) -> None:
        if benchmark.disabled:
            return
        unit_ns = benchmark.stats.stats.median * 1e9 / units
        benchmark.extra_info.update(
            units=units,
            ns_per_unit=round(unit_ns, 3),
            limit=limit,
            limit_ns_per_unit=round(limit_ns, 3),
            ratio=round(unit_ns / limit_ns, 2),
        )
        _rows.append((benchmark.name, benchmark.extra_info))

    return fill


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The ratios, after pytest-benchmark's own tables."""
    if not _rows:
        return
    terminalreporter.section("ns a unit against the limit measured in the same run")
    for name, info in _rows:
        terminalreporter.write_line(
            f"{name:38}{info['ns_per_unit']:12.3f}{info['limit_ns_per_unit']:10.3f}"
            f"{info['ratio']:9.2f}x  {info['limit']}"
        )
