"""`p2mfast bench`: it measures every loop and says so; no figure is asserted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import p2mfast as pf
from p2mfast import _limits
from p2mfast.cli import main
from p2mfast.experiment import bench, loops


def test_bench_prints_and_writes_every_loop(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "bench.json"
    assert main(["bench", "--json", str(out)]) == 0
    document = json.loads(out.read_text())
    assert document["version"] == 2
    measured = [(result["name"], result["size"]) for result in document["results"]]
    assert measured == loops.names()
    printed = capsys.readouterr().out
    assert document["vector_loops"] in printed
    for result in document["results"]:
        assert result["name"] in printed
        assert result["ns"] > 0
        assert result["limit_ns"] > 0
        assert result["ratio"] > 0


def test_loops_are_chosen_by_a_part_of_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "shatter", "remap"]) == 0
    rows = [line.split("  ")[0].strip() for line in capsys.readouterr().out.splitlines()[3:5]]
    assert rows == ["remap a range", "shatter 2 MiB"]
    assert main(["bench", "no such loop"]) == 2
    assert "shatter 2 MiB" in capsys.readouterr().err


def test_large_loops_are_asked_for() -> None:
    assert set(loops.names()) < set(loops.names(large=True))
    with pytest.raises(KeyError):
        loops.build("look up, random", "2 furlongs")


def test_a_wrong_answer_is_no_figure() -> None:
    case = replace(loops.build("shatter 2 MiB", "cache"), right=lambda: False)
    with pytest.raises(AssertionError, match="shatter 2 MiB"):
        bench.measure_case("shatter 2 MiB", "cache", case)


@pytest.mark.parametrize(
    ("goal", "words", "good", "bad"),
    [
        (loops.Goal(ratio=1.5), "1.50x", (9, 6, 1.5), (9, 6, 1.51)),
        (loops.Goal(ns=300), "300 ns", (300, 1, 300), (301, 1, 301)),
        (loops.Goal(over=300), "+300 ns", (400, 100, 4), (401, 100, 4.01)),
        (loops.Goal(), "", (1e9, 1, 1e9), None),
    ],
)
def test_goals(
    goal: loops.Goal,
    words: str,
    good: tuple[float, float, float],
    bad: tuple[float, float, float] | None,
) -> None:
    assert str(goal) == words
    assert goal.reached(*good)
    assert bad is None or not goal.reached(*bad)


def test_the_limits_do_what_they_are_named_for() -> None:
    words = np.arange(1000, dtype=np.uint64)
    places = np.array([5, 999, 5], np.uint64)
    assert _limits.read_sum(words) == 999 * 500
    assert _limits.prefetched_loads(words, places) == 5 + 999 + 5
    chain = np.array([2, 0, 1], np.uint64)
    assert [_limits.dependent_loads(chain, n) for n in range(4)] == [0, 2, 1, 0]
    _limits.memset(words, 0xAB)
    assert set(words.tolist()) == {0xABAB_ABAB_ABAB_ABAB}
    with pytest.raises(TypeError, match="uint64"):
        _limits.read_sum(np.zeros(3))
    p2m = pf.P2M(40)
    p2m.set_entry(0, 5000, 77)
    gfns = np.array([3, 4999, 600], np.uint64)
    assert _limits.bare_walks(p2m.tables, p2m.table_base_mfn, gfns) == p2m.tables[4][600 - 512]
    assert _limits.lookups(p2m, gfns) == 677
    _limits.HugePages(4 << 20).write()
    _limits.map_and_unmap(1 << 30)
    with pytest.raises(MemoryError):
        _limits.HugePages(1 << 60)
