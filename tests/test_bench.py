"""`p2mfast bench`: it measures every loop and says so; no figure is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from p2mfast import _limits
from p2mfast.cli import main


def test_bench_prints_and_writes_every_loop(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "bench.json"
    assert main(["bench", "--json", str(out)]) == 0
    document = json.loads(out.read_text())
    assert document["version"] == 1
    names = {(result["name"], result["size"]) for result in document["results"]}
    for loop in ("map a range", "look up, random", "scan for reachable RAM"):
        assert {(loop, "cache"), (loop, "memory")} <= names
    assert len(names) == len(document["results"])
    printed = capsys.readouterr().out
    assert document["vector_loops"] in printed
    for result in document["results"]:
        assert result["ns"] > 0
        assert result["limit_ns"] > 0
        assert result["ratio"] > 0


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
