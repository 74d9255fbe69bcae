"""What the tools share."""

from __future__ import annotations

import sys


class ToolError(Exception):
    """What went wrong, in words for the user."""


def progress(message: str) -> None:
    """Say on stderr what is going on."""
    print(message, file=sys.stderr, flush=True)
