"""The judge of flushes in tools/qemu-recorder, on monitors that do what a script says: what it has
to find can be told by reading the script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conformance.judged import CODE, MONITOR, Script, build_program, run
from recording.beside import Judgements
from recording.build import build
from recording.log import Log

pytestmark = pytest.mark.conformance

A, B, C, D = 0x40300, 0x40301, 0x41000, 0x5EFFF
"""Pages of the guest; D is its last."""
OURS = (CODE, 1)
HARVEST, PATH, ALL = 0, 1, 3
FLAG = MONITOR + 0x90_0000
"""Where two vCPUs tell each other how far they are."""


class Bench:
    """Runs scripts, one boot each."""

    def __init__(self, plugin: Path, program: Path, directory: Path) -> None:
        self.plugin, self.program, self.directory = plugin, program, directory

    def log(self, *scripts: Script, **policy: int) -> tuple[Judgements, Log]:
        first, *others = scripts
        ended = [first.order("END"), *(script.order("HALT") for script in others)]
        return run(self.plugin, self.program, self.directory, *ended, **policy)

    def judge(self, *scripts: Script, **policy: int) -> Judgements:
        return self.log(*scripts, **policy)[0]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("built")
    return build(directory), build_program(directory)


@pytest.fixture
def bench(built: tuple[Path, Path], tmp_path: Path) -> Bench:
    return Bench(*built, tmp_path)


def started() -> Script:
    return Script().mark("STARTS")


def some(flush: dict[str, Any], **expected: object) -> None:
    assert {name: flush[name] for name in expected} == expected


# ---- A flush that is as it should be ----


def test_all_is_fine(bench: Bench) -> None:
    script = started().write(A, B).read(C).flush((A, 2), (C, 1), OURS)
    script.write(D).write(D).flush((D, 1), OURS)
    judged = bench.judge(script)
    assert judged.faults == []
    first, second = judged.flushes
    some(first, vcpu=0, cause=1, pages=4, logged=4, written=2, touched=4, civac=4 * 64)
    some(first, missed=0, ambiguous=0, untouched=0, missed_gfns=[], invalidations=1)
    some(first, guest_instructions=3 * 2)
    some(second, pages=2, written=1, touched=2, missed=0, guest_instructions=5 * 2)
    some(judged.totals, flushes=2, pages=6, written=3, touched=6, missed=0, civac=6 * 64)
    assert second["monitor_instructions"] > first["monitor_instructions"] > 4 * 64 * 4


def test_what_is_the_monitors_is_not_the_guests(bench: Bench) -> None:
    script = started().order("POKE", A << 12, 1).write(B).read(MONITOR >> 12)
    script.flush((B, 1), OURS)
    judged, log = bench.log(script)
    some(judged.flushes[0], written=1, touched=2, missed=0)
    pages = {int(word) >> 3: int(word) & 7 for word in log.touched}
    assert pages == {B - 0x40000: 2, CODE - 0x40000: 4}
    assert int(log.header["pages"]) == MONITOR - 0x4000_0000 >> 12
    assert int(log.header["instructions"]) == 2 * 2


def test_what_traps_and_is_tried_again_counts_once(bench: Bench) -> None:
    script = started().order("TRAP").order("TRAP").flush(OURS)
    some(bench.judge(script).flushes[0], guest_instructions=2 * 4)


def test_the_value_of_a_write_that_traps(bench: Bench) -> None:
    value = 0x30D0_0805
    _, log = bench.log(started().order("SCTLR", 0, value).flush(OURS))
    written = [(int(e["kind"]), int(e["value"])) for e in log.entries if e["kind"] == 2]
    assert written == [(2, value)]


# ---- Pages that are missed ----


def test_a_page_that_was_written_and_is_not_flushed(bench: Bench) -> None:
    judged = bench.judge(started().write(A, B, D).flush((B, 1), OURS))
    some(judged.flushes[0], written=3, missed=2, missed_gfns=[A, D], civac=2 * 64)
    assert judged.faults == ["2 pages were written and not cleaned by the next flush"]


def test_it_is_missed_once(bench: Bench) -> None:
    script = started().write(A).flush(OURS).flush().write(A).flush((A, 1), OURS)
    judged = bench.judge(script)
    assert [flush["missed"] for flush in judged.flushes] == [1, 0, 0]
    assert [flush["written"] for flush in judged.flushes] == [1, 0, 1]


def test_a_page_that_was_read_need_not_be_flushed(bench: Bench) -> None:
    judged = bench.judge(started().read(A).flush(OURS))
    some(judged.flushes[0], touched=2, written=0, missed=0)


# ---- Pages that are written while a flush goes on ----


@pytest.mark.parametrize(
    ("this", "following", "missed"),
    [(True, False, [0, 0]), (False, True, [0, 0]), (False, False, [0, 1])],
)
def test_before_the_invalidation(
    bench: Bench, this: bool, following: bool, missed: list[int]
) -> None:
    """It is cleaned behind it, or it is the next one's."""
    script = started().begin([(A, 1), OURS] if this else [OURS]).write(A)
    script.order("INVALIDATE").end()
    judged = bench.judge(script.flush(*([(A, 1)] if following else [])))
    assert [flush["missed"] for flush in judged.flushes] == missed
    assert judged.totals["ambiguous"] == 0


@pytest.mark.parametrize("following", [True, False])
def test_after_the_invalidation(bench: Bench, following: bool) -> None:
    """That this flush cleans the page is not enough: it was written again."""
    script = started().write(A).begin([(A, 1), OURS]).order("INVALIDATE").write(A).end()
    judged = bench.judge(script.flush(*([(A, 1), OURS] if following else [OURS])))
    assert [flush["missed"] for flush in judged.flushes] == [0, 0 if following else 1]
    assert judged.totals["ambiguous"] == 0


@pytest.mark.parametrize("this", [True, False])
def test_between_two_invalidations(bench: Bench, this: bool) -> None:
    """Two pieces: of which of them the page is, nobody tells."""
    script = started().begin([(A, 1), OURS] if this else [OURS]).order("INVALIDATE").write(A)
    judged = bench.judge(script.order("INVALIDATE").end().flush())
    first, second = judged.flushes
    some(first, missed=0, ambiguous=int(this), invalidations=2)
    some(second, missed=0 if this else 1)


@pytest.mark.parametrize(
    ("clean", "missed"),
    [
        (0, [B]),  # of the lines of C, A and the guest's code
        (64, [B]),
        (65, None),
        (127, None),
        (128, [A, B]),
        (192, [A, B]),
    ],
)
def test_cleaning_before_arming(bench: Bench, clean: int, missed: list[int] | None) -> None:
    """What is written when it has been cleaned has to be in the next flush. A is written when so
    many lines are clean: with some of its own, nobody tells."""
    script = started().begin([(C, 1), (A, 1), OURS]).order("CLEAN", clean).write(A, B)
    script.order("CLEAN", 192 - clean).order("INVALIDATE").end(0)
    first, second = bench.judge(script.flush(), flush=PATH).flushes
    some(first, missed=0, ambiguous=int(missed is None), civac=192)
    some(second, missed_gfns=[B] if missed is None else missed)


def test_without_tracking(bench: Bench) -> None:
    everything = (0x40000, 0x1F000)
    script = started().write(A).begin([everything]).write(B).end(0).write(C)
    judged = bench.judge(script.begin([everything]).end(0), flush=ALL, arm=0)
    assert [flush["missed"] for flush in judged.flushes] == [0, 0]
    assert [flush["written"] for flush in judged.flushes] == [2, 1]


# ---- Pages that nobody touched ----


def test_a_page_that_nobody_touched(bench: Bench) -> None:
    judged = bench.judge(started().write(A).flush((A, 2), (C, 3), OURS))
    some(judged.flushes[0], pages=6, untouched=4, missed=0)


def test_a_page_that_was_touched_before_the_last_flush(bench: Bench) -> None:
    judged = bench.judge(started().read(A).flush((A, 1), OURS).flush((A, 1)))
    assert [flush["untouched"] for flush in judged.flushes] == [0, 1]


@pytest.mark.parametrize(
    ("faults", "walked", "aborted"),
    [
        ([], 0, 0),
        ([(A, 4)], 1, 0),  # a walk of stage 1
        ([(A, 0)], 0, 1),  # its instruction has not been tried again
        ([(A, 2), (A, 4), (A, 0x130)], 1, 0),
        ([(B, 4), (C, 4)], 0, 0),  # B was touched, C is not flushed
    ],
)
def test_a_page_that_was_resolved(
    bench: Bench, faults: list[tuple[int, int]], walked: int, aborted: int
) -> None:
    script = started()
    for gfn, what in faults:
        script.fault(gfn, what)
    first, second = bench.judge(script.read(B).flush((A, 2), OURS).flush((A, 1))).flushes
    some(first, walked=walked, aborted=aborted, untouched=1 - walked - aborted)
    some(second, walked=0, aborted=0, untouched=1)


def test_a_page_that_is_resolved_while_a_flush_goes_on(bench: Bench) -> None:
    """It may be of this one or of the next."""
    script = started().begin([(A, 1), OURS]).read(B).fault(A, 4).order("INVALIDATE").end()
    judged = bench.judge(script.flush((A, 1)).flush((A, 1)))
    assert [flush["walked"] for flush in judged.flushes] == [1, 1, 0]
    assert [flush["untouched"] for flush in judged.flushes] == [0, 0, 1]


# ---- Cleaning ----


@pytest.mark.parametrize(("lines", "not_clean"), [(2 * 64 - 1, 1), (2 * 64, 0), (2 * 64 + 1, 1)])
def test_lines_that_are_not_cleaned(bench: Bench, lines: int, not_clean: int) -> None:
    script = started().write(A).begin([(A, 1), OURS]).order("INVALIDATE").end(lines)
    judged = bench.judge(script)
    some(judged.flushes[0], civac=lines, missed=0)
    assert judged.totals["not_clean"] == not_clean
    assert len(judged.faults) == not_clean


def test_cleaning_before_it_is_collected_is_too_early(bench: Bench) -> None:
    script = started().write(A).begin([(A, 1), OURS]).order("CLEAN", 2 * 64).order("INVALIDATE")
    assert bench.judge(script.end(0)).totals["not_clean"] == 1


# ---- Two vCPUs ----


def test_two_vcpus(bench: Bench) -> None:
    """The second writes before, while and after the first flushes."""
    step = iter(range(1, 10))

    def turn(of: Script, other: Script) -> None:
        """What `of` has done, `other` waits for."""
        number = next(step)
        of.order("POKE", FLAG + 8 * number, 1)
        other.order("WAIT", FLAG + 8 * number, 1)

    one, two = started().order("CPU_ON"), Script()
    two.write(A)
    turn(two, one)
    one.begin([(A, 1), OURS])
    turn(one, two)
    two.write(B).order("CLEAN", 10).order("INVALIDATE")  # neither is of the first's flush
    turn(two, one)
    one.order("INVALIDATE")
    turn(one, two)
    two.write(A, C)
    turn(two, one)
    one.end().flush((B, 2), OURS)
    judged = bench.judge(one, two)
    first, second = judged.flushes
    some(first, vcpu=0, written=2, missed=0, ambiguous=0, untouched=0, civac=2 * 64)
    some(first, invalidations=1, guest_instructions=4 * 2)
    some(second, written=3, missed=2, missed_gfns=[A, C], untouched=1)


# ---- What cannot be judged ----


def test_marks_out_of_order(bench: Bench) -> None:
    script = Script().mark("BEGINS", "STARTS", "CLEANED", "STARTS")
    judged = bench.judge(script.flush())
    some(judged.totals, disorder=3, flushes=1)
    assert judged.faults == ["3 marks were out of order"]


def test_a_full_log_of_runs(bench: Bench) -> None:
    script = started().write(A).begin([])
    script.poke("REPORT_OFFSET", 0, "report", runs=174_762).order("INVALIDATE").end(0)
    judged = bench.judge(script)
    some(judged.flushes[0], runs_logged=False, missed=0)
    assert judged.faults == ["1 flushes were not judged: the monitor's logs were full"]
