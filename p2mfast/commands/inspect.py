"""p2mfast inspect."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from p2mfast import image, plot
from p2mfast.image import report
from p2mfast.image.tables import Image

DESCRIPTION = (
    "Read the stage-2 tables in an image: one that p2mfast saved, an .npz of table pages, an ELF"
    " core, or raw memory such as QEMU's pmemsave writes. Prints the map as coalesced ranges,"
    " totals by type and size, and structural faults. Exit status 1: there are such faults, or"
    " differences."
)
_FINDINGS = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own."""
    parser.add_argument("image", metavar="IMAGE", type=Path)
    for name, words in (
        ("vttbr", "VTTBR_EL2, where the image does not say it"),
        ("vtcr", "VTCR_EL2 (or --ipa-bits)"),
        ("ipa-bits", "size of the guest's physical address space"),
        ("base", "of raw memory: physical address of the first byte"),
    ):
        parser.add_argument(f"--{name}", type=_number, metavar="N", help=words)
    parser.add_argument(
        "--walk", type=_number, metavar="IPA", help="spell out each descriptor on the way to IPA"
    )
    parser.add_argument(
        "--diff", type=Path, metavar="OTHER", help="what OTHER, another image, maps differently"
    )
    parser.add_argument("--all", action="store_true", help="print every range, however many")
    parser.add_argument("--json", action="store_true", help="print JSON instead")
    parser.add_argument(
        "--plot",
        metavar="FILE",
        type=Path,
        help="draw the map into FILE as well (.png, .svg or .pdf; needs matplotlib)",
    )


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number (0x... for hexadecimal)") from None


def run(arguments: argparse.Namespace) -> int:
    """Print the image, a walk in it, or what another one maps differently."""
    if arguments.plot:
        plot.check(arguments.plot)  # before the work, not after it
    options = {name: getattr(arguments, name) for name in ("vttbr", "vtcr", "ipa_bits", "base")}
    loaded = image.load(arguments.image, **options)
    if arguments.plot:
        title = loaded.source or arguments.image.name
        plot.plot_image(loaded.extents(), loaded.ipa_bits, arguments.plot, title=title)
    rows = sys.maxsize if arguments.all else report.MOST_ROWS
    if arguments.walk is not None:
        return _walk(loaded, arguments.walk, arguments.json)
    if arguments.diff is not None:
        other = image.load(arguments.diff, **options)
        names = (str(arguments.image), str(arguments.diff))
        return _difference(names, loaded, other, arguments.json, rows)
    if arguments.json:
        print(json.dumps(report.to_json(loaded)))
    else:
        report.print_image(Console(), str(arguments.image), loaded, rows)
    return _FINDINGS if loaded.found else 0


def _walk(loaded: Image, ipa: int, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"version": 1, "ipa": ipa, "walk": report.walk_json(loaded, ipa)}))
    else:
        report.print_walk(Console(), loaded, ipa)
    return 0


def _difference(
    names: tuple[str, str], first: Image, second: Image, as_json: bool, most_rows: int
) -> int:
    rows = image.difference(first, second)
    if as_json:
        print(json.dumps({"version": 1, "differences": report.difference_json(rows)}))
    else:
        report.print_difference(Console(), names, rows, most_rows)
    return _FINDINGS if len(rows) else 0
