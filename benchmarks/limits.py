"""What the hardware can do at best, measured in the same run: medians of a few rounds."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np


def _nanoseconds(work: Callable[[], object], units: int, rounds: int = 9) -> float:
    samples = []
    for _ in range(rounds):
        started = time.perf_counter_ns()
        work()
        samples.append((time.perf_counter_ns() - started) / units)
    return median(samples)


def memset_ns_a_page(pages: int) -> float:
    """Writing the 8 bytes of each page's descriptor, as memset does it."""
    words = np.zeros(pages, np.uint64)
    return _nanoseconds(lambda: words.fill(1), pages)


def read_ns_a_page(pages: int) -> float:
    """Reading them once, in order."""
    words = np.ones(pages, np.uint64)
    return _nanoseconds(words.sum, pages)


def random_load_ns(pages: int, loads: int) -> float:
    """Independent loads from all over the same bytes."""
    words = np.ones(pages, np.uint64)
    places = np.random.default_rng(0).integers(0, pages, loads)
    out = np.empty(loads, np.uint64)
    return _nanoseconds(lambda: words.take(places, out=out), loads)


def empty_call_ns() -> float:
    """A C method of no arguments, from Python."""
    call = (0).__index__
    repeats = 10_000
    return _nanoseconds(lambda: [call() for _ in range(repeats)], repeats)
