"""An image for a person: what `p2mfast inspect` prints."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from p2mfast.descriptor import decode, type_name
from p2mfast.errors import Stage2Fault
from p2mfast.image.tables import Finding, Image, Total, printable
from p2mfast.types import Attributes, type_of
from p2mfast.units import PAGE_SIZE

Array = npt.NDArray[Any]

_DEVICE = ("nGnRnE", "nGnRE", "nGRE", "GRE")
_CACHE = ("??", "NC", "WT", "WB")
_SHAREABILITY = ("NSH", "??", "OSH", "ISH")
_LEAF_SIZES = {1: "1G", 2: "2M", 3: "4K"}
_LEAF_NAMES = {1: "1 GiB", 2: "2 MiB", 3: "4 KiB"}
MOST_ROWS = 200
_MEASURED = 1000  # rows that make the columns as wide as they are
_ROWS_AT_ONCE = 1 << 14


# ---- Words ----


def size_words(pages: int) -> str:
    """A size of so many pages, in three or four digits: "2 MiB", "482 MiB", "1.5 GiB"."""
    size = float(pages * PAGE_SIZE)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size /= 1024
        if size < 1000 or unit == "TiB":
            break
    exact = size == int(size)
    return f"{size:.0f} {unit}" if exact or size >= 100 else f"{size:.3g} {unit}"


def _memory_words(attributes: Attributes) -> str:
    """Memory type and shareability, short: "WB ISH", "nGnRE OSH"."""
    outer, inner = attributes.memattr >> 2, attributes.memattr & 3
    kind = _CACHE[inner] if outer == inner else f"{_CACHE[outer]}/{_CACHE[inner]}"
    if not outer:
        kind = _DEVICE[inner]
    return f"{kind} {_SHAREABILITY[attributes.shareability]}"


def _rights_words(attributes: Attributes) -> str:
    """What the guest may do: "rw-"."""
    granted = (attributes.readable, attributes.writable, attributes.executable)
    return "".join(letter if right else "-" for letter, right in zip("rwx", granted, strict=True))


def _share_words(part: int, whole: int) -> str:
    """Part of a whole: "all", "none" or percents."""
    if part in (0, whole):
        return "all" if part else "none"
    return f"{min(max(part / whole, 0.001), 0.999):.1%}"


def geometry_words(image: Image) -> str:
    """The registers, and what they say."""
    roots = "one root table" if image.root_pages == 1 else f"{image.root_pages} root tables"
    return (
        f"VTTBR {image.vttbr:#x}, VTCR {image.vtcr:#x}: {image.ipa_bits}-bit IPA, {roots} at level"
        f" {image.root_level}, {image.pa_bits}-bit PA"
    )


def tables_words(image: Image) -> str:
    """How many tables there are, and how many of them are armed."""
    tables = image.tables()
    below = tables[tables["level"] > image.root_level]
    valid = int(below["valid"].sum())
    ignored = (
        f"; {image.ignored_words:,} words that are neither valid nor of a type"
        if image.ignored_words
        else ""
    )
    beyond = image.pages_beyond_output
    unreached = (
        f"; {size_words(beyond)} are mapped to addresses of more than {image.pa_bits} bits, an"
        " address size fault"
        if beyond
        else ""
    )
    return (
        f"{len(tables):,} tables; of {len(below):,} pointers to them {valid:,} are valid,"
        f" {len(below) - valid:,} armed{ignored}{unreached}"
    )


def range_cells(row: Any) -> tuple[str, ...]:
    """A row of :meth:`Image.ranges`: where, whereto, size, type, rights, memory, leaves, and how
    much of it is reachable."""
    attributes = Attributes(int(row["attrs"]))
    return (
        f"{int(row['gfn']) << 12:#x}",
        f"{int(row['mfn']) << 12:#x}",
        size_words(int(row["nr"])),
        type_name(int(type_of(row["attrs"]))),
        _rights_words(attributes),
        _memory_words(attributes),
        " ".join(name for level, name in _LEAF_SIZES.items() if row["by_level"][level]),
        _share_words(int(row["reachable"]), int(row["nr"])),
    )


# ---- Tables ----


def _table(*columns: str) -> Table:
    """Columns, right-aligned where the heading ends in a colon."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for column in columns:
        right = column.endswith(":")
        table.add_column(column.rstrip(":"), justify="right" if right else "left", no_wrap=True)
    return table


def range_lines(ranges: Array) -> Iterator[str]:
    """A line a range below a heading. Plain text, of which a million lines are no trouble, and of
    which no terminal is too narrow for an address."""
    headings = ("ipa", "pa", "size", "type", "", "memory", "leaves", "reachable")
    rows = [headings, *map(range_cells, ranges[:_MEASURED])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in itertools.chain(rows, map(range_cells, ranges[_MEASURED:])):
        cells = [
            cell.rjust(width) if heading in ("size", "reachable") else cell.ljust(width)
            for cell, width, heading in zip(row, widths, headings, strict=True)
        ]
        yield " ".join(cells)


def totals_table(totals: list[Total]) -> Table:
    """A row a type and leaf size: how much of it is reachable, armed itself, or below an armed
    table."""
    table = _table("type", "leaves of", "number:", "size:", "reachable:", "below armed:", "armed:")
    for kind, level in sorted({(total.type, total.level) for total in totals}):
        rows = [total for total in totals if (total.type, total.level) == (kind, level)]
        states = [
            sum(row.leaves for row in rows if (row.valid, row.reachable) == state)
            for state in ((True, True), (True, False), (False, False))
        ]
        table.add_row(
            type_name(kind),
            _LEAF_NAMES[level],
            f"{sum(row.leaves for row in rows):,}",
            size_words(sum(row.pages for row in rows)),
            *(f"{leaves:,}" for leaves in states),
        )
    return table


def print_image(console: Console, name: str, image: Image, most_rows: int = MOST_ROWS) -> None:
    """The map, the totals and the findings."""
    console.print(Text(printable(name), style="bold"))
    if image.source:
        console.print(Text(image.source))
    console.print(Text(geometry_words(image)))
    console.print(Text(tables_words(image)))
    ranges = image.ranges(most_rows)
    console.print()
    for line in range_lines(ranges):
        print(line, file=console.file)
    if image.range_count > len(ranges):
        console.print(f"... and {image.range_count - len(ranges):,} ranges more (--all, or --json)")
    console.print(totals_table(image.totals()))
    print_findings(console, image, most_rows)


def print_findings(console: Console, image: Image, most_rows: int = MOST_ROWS) -> None:
    """The findings, or that there are none."""
    findings = image.findings()
    found = sum(image.found.values())
    if not found:
        console.print("No findings: the tables are sound.", style="green")
        return
    console.print(f"{found:,} finding{'s' if found > 1 else ''}:", style="bold red")
    for finding in findings[:most_rows]:
        console.print(Text(f"  {finding}"), soft_wrap=True)
    if found > most_rows:
        words = ", ".join(f"{n:,} {kind.name.lower()}" for kind, n in image.found.items())
        console.print(f"  ... and {found - most_rows:,} more: {words} in all")


def print_walk(console: Console, image: Image, ipa: int) -> None:
    """Each descriptor on the way to an address, bit by bit, and what the MMU says."""
    steps = image.walk(ipa)
    console.print(Text(f"ipa {ipa:#x}"), style="bold")
    for step in steps:
        console.print(Text(f"\nword {step.index} of the table at {step.table:#x}"))
        if step.descriptor is None:
            console.print(Text(f"level {step.level}  not in the image"))
        else:
            words = decode(step.descriptor, step.level).explain()
            console.print(Text(words), soft_wrap=True)
    console.print()
    for word, answer in _answers(image, ipa).items():
        console.print(Text(f"{word:>5}: {answer}"))


def _answers(image: Image, ipa: int) -> dict[str, str]:
    """What the MMU says to each kind of access."""
    answers = {}
    for access, word in (("r", "read"), ("w", "write"), ("x", "fetch")):
        try:
            answers[word] = f"{image.translate(ipa, access).pa:#x}"
        except Stage2Fault as fault:
            answers[word] = str(fault).split(" (")[0]
    return answers


def _side(row: Any, side: int) -> str:
    if not row["mapped"][side]:
        return "-"
    attributes = Attributes(int(row["attrs"][side]))
    state = "reachable" if row["reachable"][side] else "armed"
    if row["valid"][side] and not row["reachable"][side]:
        state = "below armed"
    return (
        f"{int(row['mfn'][side]) << 12:#x} {type_name(int(type_of(row['attrs'][side])))}"
        f" {_rights_words(attributes)} {_memory_words(attributes)}"
        f" {_LEAF_SIZES[int(row['level'][side])]} {state}"
    )


def print_difference(
    console: Console, names: tuple[str, str], rows: Array, most_rows: int = MOST_ROWS
) -> None:
    """What :func:`~p2mfast.image.difference` found: both sides of each row, one above the other."""
    pages = int(rows["nr"].sum())
    if not len(rows):
        console.print("No differences.")
        return
    console.print(
        Text(
            f"- {printable(names[0])}\n+ {printable(names[1])}\n{size_words(pages)} in"
            f" {len(rows):,} ranges differ"
        )
    )
    for row in rows[:most_rows]:
        console.print(
            Text(f"\n{int(row['gfn']) << 12:#x}, {size_words(int(row['nr']))}", style="bold")
        )
        for side, (sign, style) in enumerate((("-", "red"), ("+", "green"))):
            console.print(Text(f"  {sign} {_side(row, side)}", style=style))
    if len(rows) > most_rows:
        console.print(f"\n... and {len(rows) - most_rows:,} ranges more (--all, or --json)")


# ---- JSON ----


def write_json(file: TextIO, image: Image) -> None:
    """Everything :func:`print_image` shows, in frames; piece by piece, for it can be large."""
    tables = image.tables()
    below = tables[tables["level"] > image.root_level]
    head = {
        "version": 1,
        "source": image.source,
        "vttbr": image.vttbr,
        "vtcr": image.vtcr,
        "ipa_bits": image.ipa_bits,
        "pa_bits": image.pa_bits,
        "root_level": image.root_level,
        "root_pages": image.root_pages,
        "tables": len(tables),
        "pointers": {"valid": int(below["valid"].sum()), "armed": int((~below["valid"]).sum())},
        "ignored_words": image.ignored_words,
        "pages_beyond_output": image.pages_beyond_output,
        "totals": [total._asdict() for total in image.totals()],
        "findings": [finding_json(finding) for finding in image.findings()],
        "found": {kind.name.lower(): n for kind, n in image.found.items()},
    }
    file.write(json.dumps(head)[:-1])
    names = ("gfn", "mfn", "nr", "attrs", "valid", "reachable", "by_level")
    for key, array, columns in (
        ("runs", image.mapped_runs(), ("gfn", "mfn", "nr", "type")),
        ("ranges", image.ranges(), names),
    ):
        file.write(f', "{key}": [')
        for start in range(0, len(array), _ROWS_AT_ONCE):
            text = json.dumps(_rows(array[start : start + _ROWS_AT_ONCE], *columns))
            file.write((", " if start else "") + text[1:-1])
        file.write("]")
    file.write("}\n")


def finding_json(finding: Finding) -> dict[str, Any]:
    """A finding with its kind's name."""
    return {**vars(finding), "kind": finding.kind.name.lower()}


def difference_json(rows: Array) -> list[dict[str, Any]]:
    """The rows of :func:`~p2mfast.image.difference`; of each fact a pair."""
    return _rows(rows, *(rows.dtype.names or ()))


def walk_json(image: Image, ipa: int) -> dict[str, Any]:
    """The steps of a walk, their descriptors in words and by fields, and what the MMU says."""
    steps = []
    for step in image.walk(ipa):
        found = None if step.descriptor is None else decode(step.descriptor, step.level)
        steps.append(
            {
                **vars(step),
                "words": None if found is None else str(found),
                "fields": [] if found is None else [field._asdict() for field in found.fields()],
            }
        )
    return {"version": 1, "ipa": ipa, "walk": steps, "mmu": _answers(image, ipa)}


def _rows(array: Array, *names: str) -> list[dict[str, Any]]:
    columns = [np.asarray(array[name]).tolist() for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
