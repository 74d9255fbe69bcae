"""Stage-2 tables in images of memory: written for other tools, read from other machines."""

from p2mfast.errors import ImageError
from p2mfast.image.difference import DIFFERENCE_DTYPE, difference
from p2mfast.image.files import load, qemu_loader, save
from p2mfast.image.memory import Memory
from p2mfast.image.tables import Finding, FindingKind, Image, Total, WalkStep

__all__ = [
    "DIFFERENCE_DTYPE",
    "Finding",
    "FindingKind",
    "Image",
    "ImageError",
    "Memory",
    "Total",
    "WalkStep",
    "difference",
    "load",
    "qemu_loader",
    "save",
]
