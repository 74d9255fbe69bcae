"""p2mfast embed."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable

from p2mfast import embed

DESCRIPTION = (
    "Say what a compiler needs to build the engine into another program, on one line:"
    " cc prog.c $(p2mfast embed --cflags --libs)."
)


def _cflags() -> str:
    return shlex.quote(f"-I{embed.get_include()}")


def _libs() -> str:
    return f"{shlex.quote(f'-L{embed.get_library_dir()}')} -lp2mfast -pthread"


_ANSWERS: dict[str, tuple[Callable[[], str], str]] = {
    "--cflags": (_cflags, "the compiler's flags"),
    "--libs": (_libs, "the linker's flags, for the static library"),
    "--includedir": (embed.get_include, "the directory of the headers p2mfast/*"),
    "--libdir": (embed.get_library_dir, "the directory of libp2mfast.a"),
    "--sources": (lambda: " ".join(embed.get_sources()), "the engine as one C file"),
    "--cmakedir": (embed.get_cmake_dir, "for cmake -Dp2mfast_DIR=..."),
    "--pkgconfigdir": (embed.get_pkgconfig_dir, "for PKG_CONFIG_PATH"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own."""
    for option, (_, words) in _ANSWERS.items():
        parser.add_argument(option, action="append_const", dest="wanted", const=option, help=words)


def run(arguments: argparse.Namespace) -> int:
    """Print what was asked for, in the order of the call."""
    if not arguments.wanted:
        raise ValueError(f"embed: what is wanted? There are: {', '.join(_ANSWERS)}")
    print(*(_ANSWERS[option][0]() for option in arguments.wanted))
    return 0
