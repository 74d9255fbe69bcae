"""A dump of the stage-2 tables of a running Xen, made under QEMU: the parts of dump_xen_p2m.py."""

from __future__ import annotations

import sys


class DumpError(Exception):
    """What went wrong, in words for the user."""


def progress(message: str) -> None:
    """Say on stderr what is going on."""
    print(message, file=sys.stderr, flush=True)
