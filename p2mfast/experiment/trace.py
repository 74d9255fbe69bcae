"""Recorded guests: what Set/Way operations, SCTLR writes and page touches a real boot made.

The format is described in ``p2mfast/data/FORMAT.md``.
"""

from __future__ import annotations

import enum
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from p2mfast.errors import TraceError

DEFAULT_TRACE = "linux-armhf-smp4-2G"

_FORMAT = "p2mfast-guest-trace"
_VERSION = 1
_META = {
    "name": str,
    "guest": str,
    "guest_bits": int,
    "vcpus": int,
    "ram_base_gfn": int,
    "ram_pages": int,
    "instructions": int,
}
TIMELINE_DTYPE = np.dtype(
    [
        ("kind", "u1"),
        ("vcpu", "u1"),
        ("icount", "<u8"),
        ("icount_end", "<u8"),
        ("value", "<u8"),
        ("isw", "<u4"),
        ("csw", "<u4"),
        ("cisw", "<u4"),
        ("epoch", "<i4"),
    ]
)


class Kind(enum.IntEnum):
    """Kinds of a timeline's entries."""

    TOUCHED = 0
    SET_WAY = 1
    SCTLR = 2
    VM_REG = 3
    RESET = 4


@dataclass(frozen=True)
class GuestTrace:
    """A recorded boot. ``timeline`` has dtype :data:`TIMELINE_DTYPE`."""

    name: str
    guest: str
    guest_bits: int
    vcpus: int
    ram_base_gfn: int
    ram_pages: int
    instructions: int
    timeline: npt.NDArray[np.void]
    epochs: tuple[tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint8]], ...]
    """For each epoch the GFNs touched, ascending, and how: 1 read, 2 written, 4 fetched."""

    @property
    def set_way_batches(self) -> int:
        """Batches of Set/Way operations."""
        return int((self.timeline["kind"] == Kind.SET_WAY).sum())


def shipped() -> list[str]:
    """Names of the recorded boots that come with the package."""
    return sorted(entry.name[:-4] for entry in _data().iterdir() if entry.name.endswith(".npz"))


def load(source: str | Path) -> GuestTrace:
    """The trace in a file, or of a shipped boot by its name.

    Raises TraceError naming the file and what is wrong with it.
    """
    path = Path(source)
    if not path.exists() and str(source) in shipped():
        with resources.as_file(_data() / f"{source}.npz") as file:
            return _read(file)
    return _read(path)


def _data() -> Any:
    return resources.files("p2mfast") / "data"


def _read(path: Path) -> GuestTrace:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        known = ", ".join(shipped())
        raise TraceError(f"{path}: there is no such file, nor a shipped trace ({known})") from None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, AttributeError) as error:
        raise TraceError(f"{path}: not a readable .npz file ({error})") from None
    except Exception as error:  # zlib.error and what else a broken archive may raise
        raise TraceError(f"{path}: not a readable .npz file ({error!r})") from None
    try:
        return _build(arrays)
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None


def _build(arrays: dict[str, npt.NDArray[Any]]) -> GuestTrace:
    missing = {"meta", "timeline", "epoch_offset", "gfn_delta", "access"} - arrays.keys()
    if missing:
        raise TraceError(f"no recorded guest: it lacks {', '.join(sorted(missing))}")
    meta = _check_meta(arrays["meta"])
    timeline = _one_dimensional(arrays, "timeline", TIMELINE_DTYPE)
    epochs = tuple(_epochs(arrays, meta))
    _check_timeline(timeline, meta, len(epochs))
    return GuestTrace(**{name: meta[name] for name in _META}, timeline=timeline, epochs=epochs)


def _check_meta(array: npt.NDArray[Any]) -> dict[str, Any]:
    try:
        meta = json.loads(str(array[()]))
    except (ValueError, IndexError):
        raise TraceError("meta is no JSON") from None
    if not isinstance(meta, dict) or meta.get("format") != _FORMAT:
        raise TraceError(f"meta does not name the format {_FORMAT!r}")
    if meta.get("version") != _VERSION:
        raise TraceError(f"version {meta.get('version')!r}, this reads {_VERSION}")
    for name, kind in _META.items():
        if not isinstance(meta.get(name), kind):
            raise TraceError(f"meta.{name} must be {kind.__name__}, not {meta.get(name)!r}")
    if meta["guest_bits"] not in (32, 64):
        raise TraceError(f"meta.guest_bits must be 32 or 64, not {meta['guest_bits']}")
    if not 1 <= meta["vcpus"] <= 256:
        raise TraceError(f"meta.vcpus must be from 1 to 256, not {meta['vcpus']}")
    if not (meta["ram_base_gfn"] >= 0 and 1 <= meta["ram_pages"] <= 2**28 - meta["ram_base_gfn"]):
        raise TraceError(
            f"meta: {meta['ram_pages']} pages of RAM from GFN {meta['ram_base_gfn']:#x} do not lie"
            f" in a 40-bit space"
        )
    return meta


def _one_dimensional(
    arrays: dict[str, npt.NDArray[Any]], name: str, dtype: Any
) -> npt.NDArray[Any]:
    array = arrays[name]
    if array.ndim != 1 or not np.can_cast(array.dtype, dtype, "equiv"):
        raise TraceError(
            f"{name} must be one-dimensional of {dtype}, not {array.dtype} {array.shape}"
        )
    return array


def _epochs(
    arrays: dict[str, npt.NDArray[Any]], meta: dict[str, Any]
) -> Iterator[tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint8]]]:
    offset = _one_dimensional(arrays, "epoch_offset", "<i8")
    delta = _one_dimensional(arrays, "gfn_delta", "<i4")
    access = _one_dimensional(arrays, "access", "u1")
    if not offset.size or offset[0] != 0 or (np.diff(offset) < 0).any():
        raise TraceError("epoch_offset must start with 0 and never fall")
    if offset[-1] != delta.size or delta.size != access.size:
        raise TraceError(
            f"epoch_offset ends at {offset[-1]}, gfn_delta has {delta.size} entries and access"
            f" {access.size}: the file is truncated"
        )
    if access.size and (access.min() < 1 or access.max() > 7):
        raise TraceError("access must be from 1 to 7")
    end = meta["ram_base_gfn"] + meta["ram_pages"]
    for number, (first, last) in enumerate(pairwise(offset.tolist())):
        gfns = np.cumsum(delta[first:last], dtype=np.int64)
        if gfns.size and (gfns.min() < meta["ram_base_gfn"] or gfns.max() >= end):
            raise TraceError(f"epoch {number} touches pages outside the guest's RAM")
        yield gfns.astype(np.uint64), access[first:last]


def _check_timeline(timeline: npt.NDArray[np.void], meta: dict[str, Any], epochs: int) -> None:
    for number, entry in enumerate(timeline):
        if entry["kind"] not in tuple(Kind):
            raise TraceError(f"timeline[{number}] is of unknown kind {entry['kind']}")
        if entry["vcpu"] >= meta["vcpus"]:
            raise TraceError(f"timeline[{number}] is of vCPU {entry['vcpu']} of {meta['vcpus']}")
        if entry["kind"] == Kind.TOUCHED and not 0 <= entry["epoch"] < epochs:
            raise TraceError(f"timeline[{number}] names epoch {entry['epoch']} of {epochs}")
