"""p2mfast inspect."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from p2mfast import image, plot
from p2mfast.image import report
from p2mfast.image.tables import Image, printable

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
        ("pa-bits", "size of the machine's, where VTCR does not say it"),
        ("base", "of raw memory: physical address of the first byte"),
    ):
        parser.add_argument(f"--{name}", type=_number, metavar="N", help=words)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--walk",
        type=_number,
        metavar="IPA",
        help="spell out each descriptor on the way to IPA (status 1: a table is not in the image)",
    )
    instead.add_argument(
        "--diff",
        type=Path,
        metavar="OTHER",
        help="what OTHER, another image, maps differently; the registers and base given are"
        " OTHER's as well where it does not have its own",
    )
    parser.add_argument(
        "--diff-vttbr", type=_number, metavar="N", help="VTTBR_EL2 of OTHER, where it is another"
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
    names = ("vttbr", "vtcr", "ipa_bits", "pa_bits", "base")
    options = {name: getattr(arguments, name) for name in names}
    loaded = image.load(arguments.image, **options)
    if arguments.plot:
        title = loaded.source or printable(arguments.image.name)
        plot.plot_image(loaded.extents(), loaded.ipa_bits, arguments.plot, title=title)
    rows = sys.maxsize if arguments.all else report.MOST_ROWS
    if arguments.walk is not None:
        return _walk(loaded, arguments.walk, arguments.json)
    if arguments.diff is not None:
        other = _load_other(arguments.diff, options, arguments.diff_vttbr)
        paths = (str(arguments.image), str(arguments.diff))
        return _difference(paths, loaded, other, arguments.json, rows)
    if arguments.json:
        report.write_json(sys.stdout, loaded)
    else:
        report.print_image(Console(), str(arguments.image), loaded, rows)
    return _FINDINGS if loaded.found else 0


def _load_other(path: Path, options: dict[str, int | None], vttbr: int | None) -> Image:
    """As the image it is compared with, or as it says itself."""
    own = {} if vttbr is None else {"vttbr": vttbr}
    try:
        return image.load(path, **own)
    except image.ImageError:
        return image.load(path, **{**options, **own})


def _walk(loaded: Image, ipa: int, as_json: bool) -> int:
    if as_json:
        print(json.dumps(report.walk_json(loaded, ipa)))
    else:
        report.print_walk(Console(), loaded, ipa)
    return _FINDINGS if loaded.walk(ipa)[-1].descriptor is None else 0


def _difference(
    names: tuple[str, str], first: Image, second: Image, as_json: bool, most_rows: int
) -> int:
    rows = image.difference(first, second)
    found = [sum(side.found.values()) for side in (first, second)]
    if as_json:
        document = {"version": 1, "differences": report.difference_json(rows), "findings": found}
        print(json.dumps(document))
    else:
        report.print_difference(Console(), names, rows, most_rows)
        for name, number in zip(names, found, strict=True):
            if number:
                print(f"{printable(name)}: {number:,} findings; not all of it may be compared")
    return _FINDINGS if len(rows) or any(found) else 0
