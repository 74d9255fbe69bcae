"""All of the engine in one C file, which needs p2mfast.h and nothing else: for embedders who would
rather add a file to their build than a library.

    python tools/amalgamate.py OUT.c

Every internal header comes once, before its first use; a header without an include guard
(vec_loops.h) comes wherever it is included. What p2mfast.h does not declare becomes static, so that
no name of ours can meet one of the embedder's.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path

CSRC = Path(__file__).resolve().parent.parent / "csrc"

# Tables in foreign memory images are p2mfast._image's alone: no public function leads there.
NOT_THE_ENGINE = {"image.c"}
PUBLIC_HEADER = "p2mfast/p2mfast.h"

# The sources are formatted by clang-format: what begins in a line's first column is at file level,
# and nothing else does. That is all the C that has to be understood here.
_INCLUDE = re.compile(r'^#include "(.+)"\n', re.M)
_FEATURE = re.compile(r"^#define (_[A-Z]+_SOURCE)\n", re.M)
_GUARD = re.compile(r"^#ifndef P2MFAST_\w+_H$", re.M)
_FUNCTION = re.compile(r"^(?!static |typedef |extern |VEC_TARGET )\w[\w ]*[ *](\w+)\(", re.M)
_OBJECT = re.compile(r"^(?:extern )?(?=const [\w ]+(?: =|;))", re.M)
_LOCAL = re.compile(
    r"^(?:#define (\w+)|static [\w *]*?(\w+)(?:\(|\[| =)|(?:struct|enum|union) (\w+) \{)", re.M
)
_COMMENT_OR_STRING = r'/\*.*?\*/|"(?:\\.|[^"\\])*"'

_HEAD = """\
/*
 * p2mfast {version}: the engine in one file, made from its sources by tools/amalgamate.py.
 * p2mfast/p2mfast.h is the interface, and says what this is.
 *
 *     cc -std=c11 -O3 -I include -c p2mfast.c          (link with -pthread)
 *
 * SPDX-License-Identifier: Apache-2.0
 */
"""


def sources(csrc: Path = CSRC) -> list[Path]:
    """The C files that the engine consists of."""
    return [path for path in sorted(csrc.glob("*.c")) if path.name not in NOT_THE_ENGINE]


def _public_names(header: str) -> set[str]:
    return set(re.findall(r"\b(p2mfast_\w+)\(", header))


def _local_names(text: str) -> set[str]:
    return {name for names in _LOCAL.findall(text) for name in names if name}


def _renamed(text: str, names: set[str], stem: str) -> str:
    """The text with these local names made the file's own; members of structs keep theirs."""
    if not names:
        return text
    pattern = rf"({_COMMENT_OR_STRING})|(?<![.\w])(?<!->)({'|'.join(sorted(names))})\b"
    return re.sub(pattern, lambda m: m[1] or f"{m[2]}_of_{stem}", text, flags=re.S)


def _static(text: str, public: set[str]) -> str:
    text = _FUNCTION.sub(lambda m: m[0] if m[1] in public else f"static {m[0]}", text)
    return _OBJECT.sub("static ", text)


def _expanded(text: str, csrc: Path, seen: set[str]) -> str:
    """The text with the internal headers in their places."""

    def place(match: re.Match[str]) -> str:
        name = match[1]
        if name == PUBLIC_HEADER or name in seen:
            return ""
        header = (csrc / name).read_text()
        if _GUARD.search(header):
            seen.add(name)
        return f"/* ---- {name} ---- */\n{_expanded(header, csrc, seen)}\n"

    return _INCLUDE.sub(place, text)


def amalgamate(version: str, csrc: Path = CSRC) -> str:
    """The text of p2mfast.c."""
    texts = {path.stem: path.read_text() for path in sources(csrc)}
    public = _public_names((csrc / "include" / PUBLIC_HEADER).read_text())
    features = sorted({name for text in texts.values() for name in _FEATURE.findall(text)})
    owners = Counter(name for text in texts.values() for name in _local_names(text))
    shared = {name for name, files in owners.items() if files > 1} - set(features)
    parts = [_HEAD.format(version=version)]
    # They count only before the first header of the system's.
    parts += [f"#ifndef {name}\n#define {name}\n#endif\n" for name in features]
    parts.append(f'#include "{PUBLIC_HEADER}"\n')
    seen: set[str] = set()
    for stem, text in texts.items():
        own = _renamed(_FEATURE.sub("", text), shared & _local_names(text), stem)
        parts.append(f"/* ==== {stem}.c ==== */\n{_static(_expanded(own, csrc, seen), public)}")
    return "\n".join(parts)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the engine as one C file.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--version", default="from a source tree", help="what its head says")
    arguments = parser.parse_args()
    arguments.output.write_text(amalgamate(arguments.version))


if __name__ == "__main__":
    main()
