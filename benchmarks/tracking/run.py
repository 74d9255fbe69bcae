"""What tracking costs: boots each guest under each policy, by the monitor at EL2 under QEMU, and
makes the tables of docs/what-tracking-costs.md anew.

    python benchmarks/tracking/run.py             all, some 15 minutes on two cores
    python benchmarks/tracking/run.py --tables    only the tables, from results.json.gz

What is in results.json.gz is not booted again: remove it to begin anew.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tools")]  # for `tracking`, `recording`

from p2mfast.experiment import metal  # noqa: E402
from p2mfast.experiment.cost import CostModel  # noqa: E402
from tracking.cases import GUESTS, JUDGED, Case, all_cases  # noqa: E402
from tracking.recorded import judge, predict  # noqa: E402
from tracking.tables import Results, filled  # noqa: E402

RESULTS = ROOT / "benchmarks" / "tracking" / "results.json.gz"
DOCUMENT = ROOT / "docs" / "what-tracking-costs.md"


def load() -> Results:
    """What was measured so far."""
    if not RESULTS.exists():
        return {}
    results: Results = json.loads(gzip.decompress(RESULTS.read_bytes()))
    return results


def save(results: Results) -> None:
    """All of it; the same bytes for the same results."""
    text = json.dumps(results, indent=1, sort_keys=True)
    partial = RESULTS.with_suffix(".partial")
    partial.write_bytes(gzip.compress(text.encode(), mtime=0))
    partial.rename(RESULTS)


def boot(case: Case, guests: Path | None) -> dict[str, Any]:
    """One boot, as the command line's JSON has it."""
    arguments = case.arguments()
    return metal.run(**arguments, guests=guests, timeout=900).to_json(CostModel())


def boot_all(results: Results, guests: Path | None, jobs: int) -> None:
    """What is missing. Instructions are counted, so that boots beside each other do no harm."""
    missing = [case for case in all_cases() if case.key not in results]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with (
        Progress(*columns, console=Console(stderr=True)) as progress,
        ThreadPoolExecutor(jobs) as pool,
    ):
        task = progress.add_task("booting", total=len(missing))

        def one(case: Case) -> tuple[Case, dict[str, Any]]:
            return case, boot(case, guests)

        for case, run in pool.map(one, missing):
            results[case.key] = run
            save(results)
            progress.advance(task)


def record_all(results: Results, guests: Path | None) -> None:
    """What is missing of the boots with the recorder, one at a time."""
    predicted = results.setdefault("predicted", {})
    judged = results.setdefault("judged", {})
    for guest in GUESTS:
        if guest not in predicted:
            print(f"recording {guest}", file=sys.stderr)
            predicted[guest] = predict(guest, guests)
            save(results)
    for case in JUDGED:
        if case.key not in judged:
            print(f"judging {case.key}", file=sys.stderr)
            judged[case.key] = judge(case, guests)
            save(results)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tables", action="store_true", help="boot nothing")
    parser.add_argument("--guests", type=Path, metavar="DIR", help="where guests are (the cache)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="boots at a time (2)")
    arguments = parser.parse_args()
    results = load()
    if not arguments.tables:
        boot_all(results, arguments.guests, arguments.jobs)
        record_all(results, arguments.guests)
    DOCUMENT.write_text(filled(DOCUMENT.read_text(), results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
