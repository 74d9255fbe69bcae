"""Boots of guests recorded under QEMU by our plugin: the parts of record_boot.py."""

from __future__ import annotations

RAM_BASE = 0x4000_0000
"""Where QEMU's "virt" machine has its RAM."""
