"""Where the engine lies for those who build it into a program of their own: headers, the engine as
one C file and as a static library, and what pkg-config and CMake need to find them.

All functions return absolute paths, and raise FileNotFoundError where this p2mfast came without
what they lead to.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _path(place: str, needed: str = "") -> str:
    """The path of this place in the package, if what is needed there is."""
    if not (_PACKAGE / place / needed).exists():
        raise FileNotFoundError(
            f"{_PACKAGE / place / needed} is not there: this p2mfast runs from a source tree that"
            " was not installed, or was copied in part; install it (pip install .)"
        )
    return str(_PACKAGE / place)


def get_include() -> str:
    """The directory for the compiler's ``-I``: ``#include "p2mfast/p2mfast.h"``."""
    return _path("include", "p2mfast/p2mfast.h")


def get_library_dir() -> str:
    """The directory of ``libp2mfast.a``, for the linker's ``-L``: ``-lp2mfast -pthread``."""
    return _path("lib", "libp2mfast.a")


def get_sources() -> list[str]:
    """The C files to compile instead of linking the library: one. It needs `get_include` alone."""
    return [_path("src/p2mfast.c")]


def get_cmake_dir() -> str:
    """The directory of ``p2mfastConfig.cmake``: ``cmake -Dp2mfast_DIR=...``."""
    return _path("lib/cmake/p2mfast", "p2mfastConfig.cmake")


def get_pkgconfig_dir() -> str:
    """The directory of ``p2mfast.pc``, for PKG_CONFIG_PATH."""
    return _path("lib/pkgconfig", "p2mfast.pc")
