"""A dump of the stage-2 tables of a running Xen, made under QEMU: the parts of dump_xen_p2m.py."""

from __future__ import annotations

from tooling import ToolError


class DumpError(ToolError):
    """What went wrong with a dump."""
