"""The command line. Exit status: 0 fine, 1 findings, 2 a mistake in the call or unreadable
input."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from p2mfast import __version__
from p2mfast.plot import MatplotlibMissing

USAGE_ERROR = 2
INTERRUPTED = 130  # SIGINT and SIGPIPE, as a shell tells them
CUT_SHORT = 141

_COMMANDS = {
    "replay": "replay recorded boots of real guests under Set/Way policies",
    "metal": "boot real guests under a monitor at EL2, in QEMU, and measure Set/Way policies",
    "inspect": "read stage-2 tables from a dump: the map, totals, what is wrong with them",
    "bench": "time the engine's loops against the hardware's limits",
    "embed": "what compilers, pkg-config and CMake need to build the engine into a program",
}


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Only the command that is called is imported: the others' parts take longer to load than a
    dump to be read."""
    parser = argparse.ArgumentParser(
        prog="p2mfast", description="An Arm stage-2 page-table engine with Xen's P2M semantics."
    )
    parser.add_argument("--version", action="version", version=f"p2mfast {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, words in _COMMANDS.items():
        if name not in argv[:1]:
            commands.add_parser(name, help=words)
            continue
        module = importlib.import_module(f"p2mfast.commands.{name}")
        command = commands.add_parser(name, help=words, description=module.DESCRIPTION)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    words = sys.argv[1:] if argv is None else argv
    arguments = _parser(words).parse_args(words)
    try:
        status: int = arguments.run(arguments)
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except (BrokenPipeError, SystemExit):  # the reader has seen enough, as head; rich would exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return CUT_SHORT
    except (ValueError, TypeError, OSError, MemoryError, MatplotlibMissing) as error:
        print(f"p2mfast: {error}", file=sys.stderr)
        return USAGE_ERROR
