"""Raw table pages in one file, and a JSON header beside it that says where they go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from p2mfast.errors import ImageError
from p2mfast.image.description import integer, parse
from p2mfast.image.memory import Bytes, map_file

Pieces = list[tuple[int, Bytes]]


def header_of(path: Path) -> Path | None:
    """The JSON header of a raw image that is named by either of its two files."""
    if path.suffix not in (".json", ".bin"):
        return None
    header = path.with_suffix(".json")
    return header if header.is_file() else None


def read(header: Path) -> tuple[dict[str, Any], Pieces, list[str]]:
    """(description, memory, what is cut off). Raises ImageError, OSError."""
    where = str(header)
    description = parse(header.read_bytes(), where)
    name, segments = description.get("file"), description.get("segments")
    # Only beside the header: it may come from anywhere.
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise ImageError(f'{where}: "file" must name a file beside it, not {name!r:.60}')
    if not isinstance(segments, list) or not all(isinstance(item, dict) for item in segments):
        raise ImageError(f'{where}: "segments" must be a list of objects')
    try:
        data = map_file(header.parent / name)
    except (OSError, ValueError) as error:  # missing, empty, a name that no file can have
        raise ImageError(f'{where}: "file": {error}') from None
    pieces: Pieces = []
    truncated = []
    for segment in segments:
        pa, offset, size = (integer(segment, key, where) for key in ("pa", "offset", "bytes"))
        there = max(0, min(size, len(data) - offset))
        if there < size:
            truncated.append(
                f"{name} ends {size - there:#x} bytes early: of the memory at {pa:#x} {there:#x}"
                f" of {size:#x} bytes are there"
            )
        pieces.append((pa, data[offset : offset + there]))
    return description, pieces, truncated


def header(description: dict[str, Any], pieces: Pieces, file: str) -> dict[str, Any]:
    """The header for these pieces, one after the other in ``file``."""
    segments = []
    offset = 0
    for pa, data in pieces:
        segments.append({"pa": pa, "offset": offset, "bytes": len(data)})
        offset += len(data)
    return description | {"file": file, "segments": segments}
