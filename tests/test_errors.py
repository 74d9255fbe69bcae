"""Every documented exception is provoked, names the argument and its value, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import p2mfast as pf
from p2mfast.types import ENTRY_DTYPE, TRANSLATION_DTYPE

LIMIT = 1 << 28  # frames of 40 bits
MFN_LIMIT = 1 << 36
U64 = np.uint64


@pytest.fixture
def p2m() -> pf.P2M:
    """Something of everything: pages, blocks of both sizes, armed parts, foreign mappings."""
    p2m = pf.P2M(40, max_tables=12)
    p2m.set_entry(0, 3, 100)
    p2m.set_entry(512, 1024, 2048)
    p2m.set_entry(1 << 18, 1 << 18, 1 << 20)
    p2m.set_entry(4096, 8, 9000, type=pf.P2MType.MAP_FOREIGN_RW)
    p2m.invalidate_root()
    p2m.resolve_translation_fault(513)
    p2m.drain_events()
    return p2m


def state(p2m: pf.P2M) -> tuple:
    return (
        p2m.entries().tobytes(), p2m.stats, p2m.lowest_mapped_gfn, p2m.max_mapped_gfn,
        p2m.tables.shape, p2m.drain_events().tobytes(),
    )  # fmt: skip


def refuse(p2m: pf.P2M, call: Callable[[], object], error: type, words: str) -> None:
    before = state(p2m)
    with pytest.raises(error, match=words) as caught:
        call()
    assert type(caught.value) is error
    assert state(p2m) == before
    assert p2m.check() == []


SCALAR_GFN: dict[str, Callable[[pf.P2M, int], object]] = {
    "set_entry": lambda p, gfn: p.set_entry(gfn, 1, 7),
    "remove": lambda p, gfn: p.set_entry(gfn, 1, None),
    "remove_mapping": lambda p, gfn: p.remove_mapping(gfn, 1, 7),
    "get_entry": lambda p, gfn: p.get_entry(gfn),
    "resolve": lambda p, gfn: p.resolve_translation_fault(gfn),
}
ARRAY_GFN: dict[str, Callable[[pf.P2M, object], object]] = {
    "set_entries": lambda p, gfns: p.set_entries(gfns, np.zeros(np.size(gfns), U64)),
    "get_entries": lambda p, gfns: p.get_entries(gfns),
    "resolve": lambda p, gfns: p.resolve_translation_faults(gfns),
}


@pytest.mark.parametrize("call", SCALAR_GFN.values(), ids=SCALAR_GFN)
@pytest.mark.parametrize("gfn", [LIMIT, 2**64 - 1, 2**64, -1, 2**200])
def test_a_gfn_beyond_the_space(p2m: pf.P2M, call: Callable, gfn: int) -> None:
    words = rf"gfn.*({gfn:#x}|{gfn})"
    refuse(p2m, lambda: call(p2m, gfn), pf.OutOfRange, words)


@pytest.mark.parametrize("call", SCALAR_GFN.values(), ids=SCALAR_GFN)
@pytest.mark.parametrize("gfn", [None, "1", 1.0, True, [1]])
def test_a_gfn_of_the_wrong_type(p2m: pf.P2M, call: Callable, gfn: object) -> None:
    refuse(p2m, lambda: call(p2m, gfn), TypeError, "gfn")


@pytest.mark.parametrize("call", ARRAY_GFN.values(), ids=ARRAY_GFN)
@pytest.mark.parametrize("dtype", ["u8", "i8", "u4", "i4", ">u8"])
def test_arrays_with_a_gfn_beyond_the_space(p2m: pf.P2M, call: Callable, dtype: str) -> None:
    gfns = np.array([1, 2, LIMIT, 3], dtype)
    refuse(p2m, lambda: call(p2m, gfns), pf.OutOfRange, rf"gfns\[2\].*{LIMIT:#x}")


@pytest.mark.parametrize("call", ARRAY_GFN.values(), ids=ARRAY_GFN)
def test_arrays_with_a_negative_gfn(p2m: pf.P2M, call: Callable) -> None:
    refuse(p2m, lambda: call(p2m, np.array([1, -5])), pf.OutOfRange, r"gfns\[1\].*-5")


@pytest.mark.parametrize("call", ARRAY_GFN.values(), ids=ARRAY_GFN)
@pytest.mark.parametrize(
    "gfns", [np.zeros(3), np.zeros(3, bool), np.array(["a"]), np.array([None]), [1.5]]
)
def test_arrays_of_the_wrong_dtype(p2m: pf.P2M, call: Callable, gfns: object) -> None:
    refuse(p2m, lambda: call(p2m, gfns), TypeError, "gfns.*integers")


@pytest.mark.parametrize("call", ARRAY_GFN.values(), ids=ARRAY_GFN)
@pytest.mark.parametrize("shape", [(), (2, 2), (1, 1)])
def test_arrays_of_the_wrong_shape(p2m: pf.P2M, call: Callable, shape: tuple) -> None:
    refuse(p2m, lambda: call(p2m, np.zeros(shape, U64)), ValueError, "gfns.*one-dimensional")


def test_arrays_of_unequal_length(p2m: pf.P2M) -> None:
    gfns, one = np.arange(3, dtype=U64), np.zeros(1, U64)
    refuse(
        p2m, lambda: p2m.set_entries(gfns, one), ValueError, "mfns.*as long as gfns: 1 against 3"
    )
    refuse(p2m, lambda: p2m.access_many(gfns, one), ValueError, "kinds.*as long as ipas")


@pytest.mark.parametrize(
    ("nr", "error"),
    [(0, ValueError), (-1, pf.OutOfRange), (LIMIT, pf.OutOfRange), (2**64 - 1, pf.OutOfRange),
     (2**70, pf.OutOfRange), (1.0, TypeError), (None, TypeError)],
)  # fmt: skip
def test_a_count_that_leaves_the_space(p2m: pf.P2M, nr: object, error: type) -> None:
    refuse(p2m, lambda: p2m.set_entry(1, nr, 7), error, "nr")
    refuse(p2m, lambda: p2m.set_entry(1, nr, None), error, "nr")
    refuse(p2m, lambda: p2m.remove_mapping(1, nr, 7), error, "nr")


@pytest.mark.parametrize("mfn", [MFN_LIMIT, MFN_LIMIT - 1, -1, 2**64 - 1, 2**64])
def test_an_mfn_that_fits_no_descriptor(p2m: pf.P2M, mfn: int) -> None:
    refuse(p2m, lambda: p2m.set_entry(1, 2, mfn), pf.OutOfRange, "mfn")
    refuse(p2m, lambda: p2m.remove_mapping(1, 2, mfn), pf.OutOfRange, "mfn")


def test_an_mfn_in_an_array_that_fits_no_descriptor(p2m: pf.P2M) -> None:
    gfns = np.arange(3, dtype=U64)
    for bad in (MFN_LIMIT, 2**64 - 2):
        mfns = np.array([1, bad, 2], U64)
        refuse(p2m, lambda mfns=mfns: p2m.set_entries(gfns, mfns), pf.OutOfRange, r"mfns\[1\]")


def test_remove_mapping_takes_no_none(p2m: pf.P2M) -> None:
    refuse(p2m, lambda: p2m.remove_mapping(0, 1, None), TypeError, "mfn")


@pytest.mark.parametrize("kind", [12, 255, -1, 2**64])
def test_an_unknown_type_or_access(p2m: pf.P2M, kind: int) -> None:
    error = ValueError if 0 <= kind < 2**64 else pf.OutOfRange
    refuse(p2m, lambda: p2m.set_entry(1, 1, 7, type=kind), error, "type")
    refuse(p2m, lambda: p2m.set_entry(1, 1, 7, access=kind), error, "access")
    refuse(p2m, lambda: p2m.set_entries([1], [7], type=kind), error, "type")


def test_type_invalid_maps_nothing(p2m: pf.P2M) -> None:
    invalid = pf.P2MType.INVALID
    refuse(p2m, lambda: p2m.set_entry(1, 1, 7, type=invalid), ValueError, "INVALID")
    refuse(p2m, lambda: p2m.set_entries([1], [7], type=invalid), ValueError, "INVALID")


def test_words_that_are_no_choice(p2m: pf.P2M) -> None:
    refuse(p2m, lambda: p2m.resolve_translation_fault(1, depth="deep"), ValueError, "depth.*'deep'")
    refuse(p2m, lambda: p2m.resolve_translation_fault(1, depth=1), TypeError, "depth")
    refuse(p2m, lambda: p2m.resolve_translation_fault(1, order=19), ValueError, "order.*19")
    refuse(p2m, lambda: p2m.cache_flush_range(0, 9, skip="none!"), ValueError, "skip")
    refuse(p2m, lambda: p2m.translate(0, "q"), ValueError, "access.*'q'")
    refuse(p2m, lambda: p2m.translate_many([0], 1), TypeError, "access")
    refuse(p2m, lambda: p2m.set_entry(1, 1, 7, max_order=3), ValueError, "max_order.*3")
    refuse(p2m, lambda: p2m.access_many([0], [8]), ValueError, r"kinds\[0\].*8")
    refuse(p2m, lambda: p2m.access_many([0], [0]), ValueError, r"kinds\[0\].*0")


def test_flush_ranges(p2m: pf.P2M) -> None:
    refuse(p2m, lambda: p2m.cache_flush_range(LIMIT + 1, LIMIT + 2), pf.OutOfRange, "start")
    refuse(p2m, lambda: p2m.cache_flush_range(0, 2**52 + 1), pf.OutOfRange, "end")
    refuse(p2m, lambda: p2m.cache_flush_range(-1, 5), pf.OutOfRange, "start.*-1")
    refuse(p2m, lambda: p2m.cache_flush_range(0, 5, budget=-1), pf.OutOfRange, "budget.*-1")
    whole = p2m.cache_flush_range(0, LIMIT, skip="none").pages
    assert p2m.cache_flush_range(0, 2**52, skip="none").pages == whole


def test_mapping_mismatch(p2m: pf.P2M) -> None:
    refuse(p2m, lambda: p2m.remove_mapping(0, 3, 101), pf.MappingMismatch, "mapped")
    refuse(p2m, lambda: p2m.remove_mapping(0, 600, 100), pf.MappingMismatch, "mapped")


def test_out_of_tables(p2m: pf.P2M) -> None:
    """The quota is met by maps, by shattering, and by scattered pages, each as a whole."""
    left = 12 - p2m.stats.tables
    pages = np.arange(0, (left + 1) * 512, 512, dtype=U64) + U64(1 << 20)
    refuse(p2m, lambda: p2m.set_entry(1 << 20, left * 512 + 1, 1), pf.OutOfTables, "max_tables 12")
    refuse(p2m, lambda: p2m.set_entries(pages, pages), pf.OutOfTables, "max_tables 12")
    p2m.set_entry(1 << 20, (left - 1) * 512, 1)  # with the level-2 table above them: all of them
    assert p2m.stats.tables == 12
    p2m.drain_events()
    refuse(p2m, lambda: p2m.set_entry(513, 1, None), pf.OutOfTables, "more tables")
    refuse(p2m, lambda: p2m.remove_mapping(513, 1, 2049), pf.OutOfTables, "more tables")
    refuse(p2m, lambda: p2m.set_entry((1 << 18) + 5, 1, 7), pf.OutOfTables, "more tables")
    p2m.set_entry(512, 512, None)  # a whole block goes without a table


def test_scattered_pages_that_just_fit_whatever_their_order() -> None:
    """An upper bound would refuse them: the exact need decides."""
    rng = np.random.default_rng(1)
    gfns = rng.permutation(np.arange(4 * 512, dtype=U64))
    p2m = pf.P2M(40, max_tables=5)
    p2m.set_entries(gfns, gfns)
    assert (p2m.stats.tables, p2m.stats.mappings[3]) == (5, 2048)
    short = pf.P2M(40, max_tables=4)
    refuse(short, lambda: short.set_entries(gfns, gfns), pf.OutOfTables, "max_tables 4")


def test_the_arena_has_an_end() -> None:
    """Table memory is bounded by the machine's: one call cannot have the process killed."""
    p2m = pf.P2M(48)
    refuse(p2m, lambda: p2m.set_entry(1, 2**36 - 2, 1), pf.OutOfTables, "no quota")


@pytest.mark.parametrize(
    ("method", "dtype"), [("get_entries", ENTRY_DTYPE), ("translate_many", TRANSLATION_DTYPE)]
)
def test_out_arrays(p2m: pf.P2M, method: str, dtype: np.dtype) -> None:
    call = getattr(p2m, method)
    values = np.arange(4, dtype=U64)
    good = np.zeros(4, dtype)
    assert call(values, out=good) is good
    assert (good == call(values)).all()
    read_only = np.zeros(4, dtype)
    read_only.flags.writeable = False
    refuse(p2m, lambda: call(values, out=read_only), ValueError, "out.*writeable")
    refuse(p2m, lambda: call(values, out=np.zeros(3, dtype)), ValueError, r"out.*\(4,\).*\(3,\)")
    refuse(p2m, lambda: call(values, out=np.zeros(8, dtype)[::2]), ValueError, "out.*contiguous")
    refuse(p2m, lambda: call(values, out=np.zeros(4)), TypeError, "out.*float64")
    refuse(p2m, lambda: call(values, out=[0]), TypeError, "out.*list")


def test_stage2_fault_carries_the_syndrome(p2m: pf.P2M) -> None:
    """ESR_EL2 and HPFAR_EL2 by the Arm ARM, D19.2: EC 0x24/0x20, IL, WnR, DFSC with the level."""
    p2m.set_entry(20, 1, 50, type=pf.P2MType.RAM_RO)
    p2m.resolve_translation_fault(20)
    with pytest.raises(pf.Stage2Fault) as caught:
        p2m.translate(20 << 12 | 0xABC, "w")
    fault = caught.value
    assert (fault.ipa, fault.level, fault.kind) == (20 << 12 | 0xABC, 3, pf.FaultKind.PERMISSION)
    assert fault.esr == 0x24 << 26 | 1 << 25 | 1 << 6 | 0b001111
    assert fault.hpfar == 20 << 4
    with pytest.raises(pf.Stage2Fault) as caught:
        p2m.translate(21 << 12, "x")
    assert caught.value.esr == 0x20 << 26 | 1 << 25 | 0b000111
    p2m.invalidate_root()
    with pytest.raises(pf.Stage2Fault) as caught:
        p2m.translate(20 << 12)
    assert caught.value.esr == 0x24 << 26 | 1 << 25 | 0b000101


def test_an_address_beyond_the_space_faults_at_level_0(p2m: pf.P2M) -> None:
    with pytest.raises(pf.Stage2Fault, match="level 0") as caught:
        p2m.translate(1 << 40)
    assert isinstance(caught.value, pf.OutOfRange)
    assert (caught.value.level, caught.value.value) == (0, 1 << 40)
    row = p2m.translate_many(np.array([1 << 40, 2**64 - 1], U64))
    assert row["fault"].tolist() == [pf.FaultKind.TRANSLATION] * 2


def test_exceptions_are_what_callers_may_catch() -> None:
    assert issubclass(pf.OutOfRange, pf.P2MError)
    assert issubclass(pf.OutOfRange, ValueError)
    assert issubclass(pf.OutOfTables, pf.P2MError)
    assert issubclass(pf.OutOfTables, MemoryError)
    assert issubclass(pf.MappingMismatch, pf.P2MError)
    assert issubclass(pf.Stage2Fault, pf.P2MError)


# ---- mem_access, the table quota ----


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((1 << 28, 1, pf.Access.R), pf.OutOfRange, "gfn"),
        ((0, 1 << 29, pf.Access.R), pf.OutOfRange, "nr"),
        ((0, 0, pf.Access.R), ValueError, "nr"),
        ((0, 1, 11), ValueError, "access"),
        ((0, 1, "r"), TypeError, "access"),
        (("0", 1, pf.Access.R), TypeError, "gfn"),
    ],
)
def test_set_mem_access(arguments: tuple, error: type, words: str) -> None:
    p2m = pf.P2M()
    p2m.set_entry(0, 1024, 0)
    refuse(p2m, lambda: p2m.set_mem_access(*arguments), error, words)
    assert not p2m.mem_access_enabled


def test_set_mem_access_without_tables() -> None:
    p2m = pf.P2M(max_tables=2)
    p2m.set_entry(0, 1024, 0)
    refuse(p2m, lambda: p2m.set_mem_access(500, 100, pf.Access.R), pf.OutOfTables, "tables")
    assert not p2m.mem_access_enabled
    p2m.set_mem_access(0, 1, pf.Access.R)
    assert p2m.get_entry(0).access is pf.Access.R


def test_the_quota_cannot_go_below_what_is_used() -> None:
    p2m = pf.P2M(max_tables=9)
    p2m.set_entry(1, 1, 1)
    for bad, error in ((1, pf.OutOfTables), (-1, pf.OutOfRange), ("2", TypeError)):
        refuse(p2m, lambda bad=bad: setattr(p2m, "max_tables", bad), error, "max_tables")
        assert p2m.max_tables == 9
    p2m.max_tables = 2
    refuse(p2m, lambda: p2m.set_entry(1 << 20, 1, 1), pf.OutOfTables, "max_tables 2")
    p2m.max_tables = None
    p2m.set_entry(1 << 20, 1, 1)
    assert p2m.max_tables is None
