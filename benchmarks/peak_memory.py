"""The life of a 1 TiB guest in 4 KiB pages: times, and the peak of memory over its tables (2 GiB).

A process of its own: `python benchmarks/peak_memory.py [PAGES]`.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np

import p2mfast as pf


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(pages: int) -> None:
    touched = np.arange(0, pages, 100, dtype=np.uint64)
    before = peak_mib()
    p2m = pf.P2M(40)
    started = time.perf_counter()

    def say(what: str) -> None:
        nonlocal started
        seconds = time.perf_counter() - started
        print(f"{what:28}{seconds:8.2f} s{peak_mib() - before:10.0f} MiB", flush=True)
        started = time.perf_counter()

    p2m.set_entry(0, pages, 0, max_order=0)
    say("mapped")
    p2m.invalidate_root()
    p2m.resolve_translation_faults(touched)
    say("armed and touched at 1 %")
    collected = p2m.harvest().pages
    say(f"harvested {collected:,}")
    tables = (p2m.stats.tables + p2m.root_pages) / 256
    del p2m
    say("destroyed")
    print(f"tables {tables:.0f} MiB, peak {(peak_mib() - before) / tables - 1:+.1%}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1 << 28)
