"""Truncated and foreign trace files are refused by name; nothing else than TraceError comes out."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

import p2mfast
from p2mfast.errors import TraceError
from p2mfast.experiment.trace import TIMELINE_DTYPE, load, shipped

SHIPPED = Path(p2mfast.__file__).parent / "data"


def good() -> dict[str, np.ndarray]:
    timeline = np.zeros(2, TIMELINE_DTYPE)
    timeline["epoch"] = [0, -1]
    timeline["kind"] = [0, 1]
    meta = {
        "format": "p2mfast-guest-trace", "version": 1, "name": "t", "guest": "g", "guest_bits": 32,
        "vcpus": 1, "ram_base_gfn": 100, "ram_pages": 50, "instructions": 9,
    }  # fmt: skip
    return {
        "meta": np.array(json.dumps(meta)),
        "timeline": timeline,
        "epoch_offset": np.array([0, 3], "i8"),
        "gfn_delta": np.array([100, 1, 5], "i4"),
        "access": np.array([1, 3, 7], "u1"),
    }


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def test_a_good_file_is_read(tmp_path: Path) -> None:
    trace = load(write(tmp_path / "good.npz", good()))
    ((gfns, access),) = trace.epochs
    assert gfns.tolist() == [100, 101, 106]
    assert access.tolist() == [1, 3, 7]
    assert (trace.name, trace.vcpus, trace.set_way_batches) == ("t", 1, 1)


def test_shipped_traces_are_there() -> None:
    assert shipped() == [
        "linux-armhf-smp4-2G", "linux-armhf-smp4-512M", "uefi64-smp2-512M-kernel",
    ]  # fmt: skip
    for name in shipped():
        assert load(name).name == name


def meta(**changes: object) -> dict[str, np.ndarray]:
    values = json.loads(str(good()["meta"])) | changes
    return {"meta": np.array(json.dumps(values))}


def timeline(**changes: int) -> dict[str, np.ndarray]:
    array = good()["timeline"]
    for name, value in changes.items():
        array[name][0] = value
    return {"timeline": array}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (meta(format="other"), "format"),
        (meta(version=2), "version 2"),
        (meta(vcpus="two"), "vcpus"),
        (meta(vcpus=0), "vcpus.*0"),
        (meta(guest_bits=16), "guest_bits.*16"),
        (meta(ram_pages=0), "0 pages"),
        (meta(ram_base_gfn=2**60), "40-bit"),
        (meta(name=None), "name"),
        ({"meta": np.array("{")}, "JSON"),
        ({"meta": np.array("[]")}, "format"),
        ({"meta": np.zeros(0)}, "format"),
        (timeline(kind=9), "kind 9"),
        (timeline(vcpu=3), "vCPU 3"),
        (timeline(epoch=1), "epoch 1"),
        (timeline(epoch=-1), "epoch -1"),
        ({"timeline": np.zeros(3)}, "timeline"),
        ({"timeline": good()["timeline"].reshape(1, 2)}, "timeline"),
        ({"epoch_offset": np.array([0, 9], "i8")}, "truncated"),
        ({"epoch_offset": np.array([1, 3], "i8")}, "epoch_offset"),
        ({"epoch_offset": np.array([0, 5, 3], "i8")}, "epoch_offset"),
        ({"epoch_offset": np.array([], "i8")}, "epoch_offset"),
        ({"gfn_delta": np.array([100, 1], "i4")}, "truncated"),
        ({"gfn_delta": np.array([100, 1, 50], "i4")}, "outside"),
        ({"gfn_delta": np.array([99, 1, 5], "i4")}, "outside"),
        ({"gfn_delta": np.zeros(3)}, "gfn_delta"),
        ({"access": np.array([1, 2], "u1")}, "truncated"),
        ({"access": np.array([1, 2, 8], "u1")}, "access"),
    ],
)
def test_wrong_contents_are_named(tmp_path: Path, changes: dict, words: str) -> None:
    path = write(tmp_path / "bad.npz", good() | changes)
    with pytest.raises(TraceError, match=words) as caught:
        load(path)
    assert "bad.npz" in str(caught.value)


@pytest.mark.parametrize("name", ["meta", "timeline", "epoch_offset", "gfn_delta", "access"])
def test_a_missing_array_is_named(tmp_path: Path, name: str) -> None:
    arrays = good()
    del arrays[name]
    with pytest.raises(TraceError, match=name):
        load(write(tmp_path / "bad.npz", arrays))


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    pickled = io.BytesIO()
    np.savez(pickled, meta=np.array([{"a": 1}], dtype=object))
    for contents in (b"", b"PK", b"text", array.getvalue(), pickled.getvalue()):
        path = tmp_path / "foreign.npz"
        path.write_bytes(contents)
        with pytest.raises(TraceError, match=r"foreign\.npz"):
            load(path)
    with pytest.raises(TraceError, match="no such file"):
        load(tmp_path / "absent.npz")
    with pytest.raises(TraceError):
        load(tmp_path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = (SHIPPED / "linux-armhf-smp4-512M.npz").read_bytes()
    path = tmp_path / "cut.npz"
    for size in range(0, len(whole), 37):
        path.write_bytes(whole[:size])
        with pytest.raises(TraceError):
            load(path)


def test_damaged_bytes_never_escape_as_another_error(tmp_path: Path) -> None:
    whole = bytearray((SHIPPED / "linux-armhf-smp4-512M.npz").read_bytes())
    rng = np.random.default_rng(5)
    path = tmp_path / "damaged.npz"
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            damaged[at] = int(rng.integers(256))
        path.write_bytes(damaged)
        try:
            load(path)
        except TraceError:
            refused += 1
    assert refused > 300  # a byte of a name or a time may change without harm
