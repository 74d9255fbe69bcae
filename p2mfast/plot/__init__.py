"""Pictures: what a replay touched and cleaned, and guest memory as its tables map it.

Matplotlib is an extra, ``pip install "p2mfast[plot]"``, and imported when something is drawn.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from p2mfast.experiment.replay import Run

SUFFIXES = (".png", ".svg", ".pdf")


class MatplotlibMissing(ImportError):
    """Plots need matplotlib, and it cannot be imported."""


def check(file: str | os.PathLike[str]) -> None:
    """Can such a file be drawn here? Raises what the functions that draw would raise.

    ValueError naming the suffix, :class:`MatplotlibMissing` saying how to install it.
    """
    suffix = Path(file).suffix
    if suffix.lower() not in SUFFIXES:
        raise ValueError(f"plot {os.fspath(file)!r}: {suffix!r} is none of {', '.join(SUFFIXES)}")
    try:
        import_module("matplotlib.figure")
    except ImportError as error:
        raise MatplotlibMissing(
            f'plots need matplotlib: pip install "p2mfast[plot]" ({error})'
        ) from error


def plot_replay(runs: Sequence[Run], file: str | os.PathLike[str]) -> None:
    """Draw what the guest touched and each policy cleaned, by flush and guest physical address.

    ``runs`` come from :func:`~p2mfast.experiment.replay.replay` with ``keep_runs``. The format is
    that of the file's suffix; raises as :func:`check` does, ValueError also for runs that have
    kept nothing, and OSError where the file cannot be written.
    """
    check(file)
    from p2mfast.plot import flushes, page  # noqa: PLC0415 - they import matplotlib

    with page.own_settings():
        page.save(flushes.draw(runs), file)


def plot_image(
    extents: npt.NDArray[np.void],
    ipa_bits: int,
    file: str | os.PathLike[str],
    title: str = "guest memory",
) -> None:
    """Draw guest memory: an island of mappings a panel, a cell for so many pages of it.

    ``extents`` has the fields gfn, nr, attrs, level, valid and reachable, ascending and disjoint,
    as :meth:`p2mfast.image.Image.extents` returns them. Raises as :func:`check` does, ValueError
    also for extents that are not such, and OSError where the file cannot be written.
    """
    check(file)
    from p2mfast.plot import memory, page  # noqa: PLC0415 - they import matplotlib

    with page.own_settings():
        page.save(memory.draw(extents, ipa_bits, title), file)
