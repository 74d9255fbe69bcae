"""Arguments as Python code takes them: errors that name the argument and its value."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from p2mfast.errors import OutOfRange


def integer(name: str, value: Any, bits: int = 64) -> int:
    """An unsigned number of so many bits. Raises TypeError, OutOfRange."""
    if isinstance(value, bool | np.bool_):  # an older NumPy's has an index, too
        raise TypeError(f"{name} must be an integer, not {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {value!r}") from None
    if not 0 <= number < 1 << bits:
        raise OutOfRange(f"{name} must be from 0 to 2**{bits} - 1, not {number:#x}", name, number)
    return number


def integers(name: str, values: Any) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """A one-dimensional contiguous uint64 array. Raises TypeError, ValueError, OutOfRange."""
    array = np.asarray(values)
    if array.size == 0 and not isinstance(values, np.ndarray):
        array = array.astype(np.uint64)
    if array.dtype.kind not in "ui":
        raise TypeError(f"{name} must be an array of integers, not of {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, not of shape {array.shape}")
    if array.dtype.kind == "i" and array.size and array.min() < 0:
        index = int(np.flatnonzero(array < 0)[0])
        raise OutOfRange(
            f"{name}[{index}] must not be negative: {array[index]}", name, int(array[index])
        )
    return np.ascontiguousarray(array, np.uint64)
