"""An image for a notebook: a strip of what is mapped, and the first ranges of it."""

from __future__ import annotations

from html import escape
from typing import Any

from p2mfast.image.report import geometry_words, range_cells, tables_words
from p2mfast.image.tables import Image

MOST_ROWS = 20
_MOST_PIECES = 200

# Distinct for the colour-blind (Okabe and Ito's palette); what has no name is grey.
_COLOURS = {
    "ram_rw": "#0072b2",
    "ram_ro": "#56b4e9",
    "mmio_direct_dev": "#d55e00",
    "mmio_direct_nc": "#e69f00",
    "mmio_direct_c": "#f0e442",
    "map_foreign_rw": "#009e73",
    "map_foreign_ro": "#7fcfb9",
    "grant_map_rw": "#cc79a7",
    "grant_map_ro": "#e6bcd3",
}
_HEADINGS = ("ipa", "pa", "size", "type", "access", "memory", "leaves", "reachable")


def html_of(image: Image, title: str) -> str:
    """The whole as HTML that needs no style sheet and no script."""
    ranges = image.ranges()
    rows = "".join(_row(row) for row in ranges[:MOST_ROWS])
    more = len(ranges) - MOST_ROWS
    rest = f"<p>and {more:,} ranges more: Image.of(...).ranges()</p>" if more > 0 else ""
    found = sum(image.found.values())
    findings = f"<p><b>{found:,} findings</b>: Image.of(...).findings()</p>" if found else ""
    heading = "".join(f"<th>{name}</th>" for name in _HEADINGS)
    return (
        f"<div><b>{escape(title)}</b><br>{escape(geometry_words(image))}<br>"
        f"{escape(tables_words(image))}{_strip(ranges[:_MOST_PIECES])}"
        f"<table><thead><tr>{heading}</tr></thead><tbody>{rows}</tbody></table>{rest}{findings}"
        "</div>"
    )


def _row(row: Any) -> str:
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in range_cells(row)) + "</tr>"


def _strip(ranges: Any) -> str:
    """A piece a range, as wide as its size has digits; what is not reachable is pale."""
    pieces = []
    for row in ranges:
        ipa, _, size, kind, *_, reachable = range_cells(row)
        solid = 0.25 + 0.75 * int(row["reachable"]) / int(row["nr"])
        pieces.append(
            f'<div title="{ipa}: {size} of {kind}, reachable: {reachable}" style="flex:'
            f"{int(row['nr']).bit_length()};background:{_COLOURS.get(kind, '#999')};"
            f'opacity:{solid:.2f}"></div>'
        )
    return (
        '<div style="display:flex;gap:1px;height:1.2em;max-width:800px;margin:.3em 0">'
        + "".join(pieces)
        + "</div>"
    )
