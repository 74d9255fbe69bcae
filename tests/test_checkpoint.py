"""Checkpoints: a P2M as bytes and back, in another process as well. (The C tests have the hostile
ones, and tables in an embedder's memory.)"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import p2mfast as pf

SIZES = (32, 36, 40, 42, 44, 48)


def busy(ipa_bits: int, seed: int) -> pf.P2M:
    """Mapped, removed, armed and touched, with accesses kept and tables given back."""
    rng = np.random.default_rng([ipa_bits, seed])
    p2m = pf.P2M(ipa_bits, vmid=int(rng.integers(1 << 16)), max_tables=4000)
    for _ in range(50):
        order = int(rng.choice([0, 9, 18]))
        gfn = int(rng.integers(0, 1 << ipa_bits - 12)) >> order << order
        mfn = None if rng.random() < 0.3 else int(rng.integers(1 << 30)) >> order << order
        p2m.set_entry(gfn, 1 << order, mfn, pf.P2MType(int(rng.integers(1, 12))))
    runs = p2m.mapped_runs()
    p2m.set_mem_access(int(runs["gfn"][0]), 1, pf.Access.R)
    p2m.invalidate_root()
    p2m.resolve_translation_faults(runs["gfn"][::2].copy())
    return p2m


def facts(p2m: pf.P2M) -> tuple:
    stats = p2m.stats._replace(tlb_flushes=0, reserved_bytes=0)
    return (
        p2m.ipa_bits, p2m.pa_bits, p2m.vmid, p2m.vttbr, p2m.vtcr, p2m.max_tables, stats,
        p2m.lowest_mapped_gfn, p2m.max_mapped_gfn, p2m.mem_access_enabled,
        p2m.entries().tobytes(), p2m.mapped_runs().tobytes(),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ipa_bits", SIZES)
def test_a_restored_p2m_is_the_same_and_goes_on_in_the_same_way(ipa_bits: int, seed: int) -> None:
    p2m = busy(ipa_bits, seed)
    copy = pf.P2M.restore(p2m.checkpoint())
    assert facts(copy) == facts(p2m)
    assert copy.check() == []
    gfns = p2m.mapped_runs()["gfn"]
    assert (copy.get_entries(gfns) == p2m.get_entries(gfns)).all()
    for each in (p2m, copy):
        each.set_entry(0, 1 << 10, 1 << 20)
        each.set_entry(5, 1, None)
    assert copy.harvest().runs.tolist() == p2m.harvest().runs.tolist()
    assert facts(copy) == facts(p2m)
    assert copy.check() == []


def test_every_tlb_is_stale_after_a_restore() -> None:
    copy = pf.P2M.restore(busy(40, 0).checkpoint())
    (event,) = copy.drain_events()
    assert (event["kind"], event["gfn"], event["nr"]) == (pf.EventKind.TLB_INVALIDATE, 0, 1 << 28)
    assert copy.tlb_generation == copy.stats.tlb_flushes


def test_another_process_restores_it(tmp_path: Path) -> None:
    p2m = busy(48, 1)
    (tmp_path / "checkpoint").write_bytes(p2m.checkpoint())
    script = (
        "import sys, p2mfast as pf\n"
        "p2m = pf.P2M.restore(open(sys.argv[1], 'rb').read())\n"
        "sys.stdout.buffer.write(p2m.mapped_runs().tobytes())"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "checkpoint")],
        capture_output=True,
        check=True,
        cwd=tmp_path,
    )
    assert result.stdout == p2m.mapped_runs().tobytes()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_bytes_that_are_no_checkpoint_are_refused(data: st.DataObject) -> None:
    whole = busy(32, 0).checkpoint()
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 255) | st.integers(0, len(whole) - 1))
        changed[at] = data.draw(st.integers(0, 255))
    length = data.draw(st.just(len(whole)) | st.integers(0, len(whole)))
    try:
        p2m = pf.P2M.restore(changed[:length])
    except ValueError as error:
        assert f"checkpoint: {length} bytes" in str(error)
        return
    assert p2m.check() == []
    p2m.set_entry(0, 512, 0)
    p2m.harvest()


def test_wrong_arguments_are_named() -> None:
    for value in (None, 3, "text"):
        with pytest.raises(TypeError):
            pf.P2M.restore(value)
    for value in (b"", b"x", bytes(10_000)):
        with pytest.raises(ValueError, match=rf"checkpoint: {len(value)} bytes that are no P2M's"):
            pf.P2M.restore(value)
