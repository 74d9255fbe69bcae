"""The plugin's log (`struct log_header` in tools/qemu-recorder/timeline.h), made a trace."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tooling import ToolError

MAGIC = b"p2mflog1"
HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("bits", "<u4"),
        ("vcpus", "<u4"),
        ("base_gfn", "<u8"),
        ("pages", "<u8"),
        ("instructions", "<u8"),
        ("zeroings", "<u8"),
        ("unresolved", "<u8"),
        ("faults", "<u8"),
        ("entries", "<u8"),
        ("epochs", "<u8"),
        ("touched", "<u8"),
    ]
)
ENTRY = np.dtype(
    [
        ("kind", "u1"),
        ("vcpu", "u1"),
        ("reserved", "<u2"),
        ("epoch", "<i4"),
        ("icount", "<u8"),
        ("icount_end", "<u8"),
        ("value", "<u8"),
        ("isw", "<u4"),
        ("csw", "<u4"),
        ("cisw", "<u4"),
        ("reserved_end", "<u4"),
    ]
)
KIND_BITS = 3

# p2mfast/data/FORMAT.md, "timeline"
TIMELINE = np.dtype(
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

RECORDED_WITH = (
    "{qemu}, machine virt, TCG, tools/record_boot.py: the engine tracks the pages live, one"
    " instruction counter for all vCPUs"
)
VALUES = "SCTLR: the register written, as QEMU's monitor prints it when the next block begins"
NOT_SEEN = "the guest's own table walks; stores of DC ZVA"


@dataclass(frozen=True)
class Log:
    """What the plugin wrote."""

    header: np.void
    entries: npt.NDArray[np.void]
    epoch_ends: npt.NDArray[np.uint64]
    touched: npt.NDArray[np.uint32]


def read(path: Path) -> Log:
    """The log in a file; ToolError where it is none, or not whole."""
    data = path.read_bytes()
    if len(data) < HEADER.itemsize or not data.startswith(MAGIC):
        raise ToolError(f"{path} is no log of the recorder")
    header = np.frombuffer(data, HEADER, 1)[0]
    arrays = []
    at = HEADER.itemsize
    for count, dtype in (("entries", ENTRY), ("epochs", np.dtype("<u8")), ("touched", "<u4")):
        size = int(header[count]) * np.dtype(dtype).itemsize
        if at + size > len(data):
            raise ToolError(f"{path} is truncated: its {count} are not all there")
        arrays.append(np.frombuffer(data, dtype, int(header[count]), at))
        at += size
    if at != len(data):
        raise ToolError(f"{path} has {len(data) - at} bytes too many")
    return Log(header, *arrays)


def convert(log: Log, name: str, guest: str, qemu: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a trace (p2mfast/data/FORMAT.md)."""
    header = log.header
    base = int(header["base_gfn"])
    timeline = np.zeros(len(log.entries), TIMELINE)
    for field in TIMELINE.names or ():
        timeline[field] = log.entries[field]
    offsets = np.concatenate([[0], log.epoch_ends]).astype(np.int64)
    gfns = (log.touched >> KIND_BITS).astype(np.int64) + base
    delta = np.diff(gfns, prepend=0)
    for first, last in pairwise(offsets.tolist()):
        if first < last:
            delta[first] = gfns[first]
            if (delta[first + 1 : last] <= 0).any():
                raise ToolError("the log's pages do not ascend")
    meta = {
        "format": "p2mfast-guest-trace",
        "version": 1,
        "name": name,
        "guest": guest,
        "guest_bits": int(header["bits"]),
        "vcpus": int(header["vcpus"]),
        "ram_base_gfn": base,
        "ram_pages": int(header["pages"]),
        "instructions": int(header["instructions"]),
        "recorded_with": RECORDED_WITH.format(qemu=qemu),
        "values": VALUES,
        "not_seen": NOT_SEEN,
        "dc_zva": int(header["zeroings"]),
        "unresolved_accesses": int(header["unresolved"]),
        "live_stage2_faults": int(header["faults"]),
    }
    return {
        "meta": np.array(json.dumps(meta)),
        "timeline": timeline,
        "epoch_offset": offsets,
        "gfn_delta": delta.astype(np.int32),
        "access": (log.touched & (1 << KIND_BITS) - 1).astype(np.uint8),
    }


def save(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Write the trace under this very name, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    partial.rename(path)
