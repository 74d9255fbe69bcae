"""What two images map differently."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from p2mfast.image.tables import Image

Array = npt.NDArray[Any]

_FACTS = [("mfn", "<u8"), ("attrs", "<u8"), ("level", "i1"), ("valid", "?"), ("reachable", "?")]
DIFFERENCE_DTYPE = np.dtype(
    [
        ("gfn", "<u8"),
        ("nr", "<u8"),
        ("mapped", "?", (2,)),
        *((name, kind, (2,)) for name, kind in _FACTS),
    ]
)
"""Rows of :func:`difference`: pages whose mapping differs in one way; of each fact first the one
image's, then the other's (0 where it maps nothing). ``mfn`` is of the first page."""


def difference(first: Image, second: Image) -> Array:
    """Pages that the two images map differently, ascending: another frame, other attributes,
    another mapping size, armed or reachable here and not there, or not mapped at all."""
    for name, image in (("first", first), ("second", second)):
        if not isinstance(image, Image):
            raise TypeError(f"{name} must be an Image, not {image!r}")
    sides = [image.extents() for image in (first, second)]
    edges = np.unique(
        np.concatenate([part for side in sides for part in (side["gfn"], side["gfn"] + side["nr"])])
    )
    pieces = np.zeros(max(len(edges) - 1, 0), DIFFERENCE_DTYPE)
    pieces["gfn"], pieces["nr"] = edges[:-1], np.diff(edges)
    for column, side in enumerate(sides):
        _fill(pieces, column, side)
    differs = pieces["mapped"][:, 0] != pieces["mapped"][:, 1]
    for name, _ in _FACTS:
        differs |= pieces[name][:, 0] != pieces[name][:, 1]
    return _join(pieces[differs])


def _fill(pieces: Array, column: int, extents: Array) -> None:
    """What `extents`, ascending, say of pieces none of which is in two of them."""
    if not len(extents):
        return
    index = np.searchsorted(extents["gfn"], pieces["gfn"], "right").astype(np.int64) - 1
    extent = extents[np.maximum(index, 0)]
    mapped = (index >= 0) & (pieces["gfn"] - extent["gfn"] < extent["nr"])
    pieces["mapped"][:, column] = mapped
    for name, _ in _FACTS:
        values = extent[name]
        if name == "mfn":
            values = values + (pieces["gfn"] - extent["gfn"])
        pieces[name][:, column] = np.where(mapped, values, 0)


def _join(pieces: Array) -> Array:
    """Neighbours that differ in the same way become one row."""
    if not len(pieces):
        return pieces
    before, after = pieces[:-1], pieces[1:]
    new = np.ones(len(pieces), np.bool_)
    new[1:] = before["gfn"] + before["nr"] != after["gfn"]
    for name in ("mapped", "attrs", "level", "valid", "reachable"):
        new[1:] |= (before[name] != after[name]).any(axis=1)
    going_on = before["mfn"] + before["nr"][:, None] * before["mapped"]
    new[1:] |= (going_on != after["mfn"]).any(axis=1)
    starts = new.nonzero()[0]
    joined = pieces[starts]
    joined["nr"] = np.add.reduceat(pieces["nr"], starts)
    return joined
