"""What the package holds for embedders: headers, the engine as one file and as a static library,
and how pkg-config and CMake find them."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

from amalgamate import amalgamate
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
HEADERS = ROOT / "csrc" / "include" / "p2mfast"

METAL = {
    "el2_monitor": "examples/el2_monitor",
    "csrc": "csrc",
    "tools/fetch_guest.py": "tools/fetch_guest.py",
    "tools/tooling": "tools/tooling",
}
"""What `p2mfast metal` compiles and runs: the place in the package's src/, and in the tree."""


class BuildEmbedding(build_ext):
    """build_ext, and beside the extension modules the embedder's files: in the wheel, and in the
    source tree of an editable install."""

    library_flags: list[str]
    """For the compiler, after Python's own."""

    def run(self) -> None:
        super().run()
        if self.inplace:
            package = Path(self.get_finalized_command("build_py").get_package_dir("p2mfast"))
        else:
            package = Path(self.build_lib) / "p2mfast"
        version = self.distribution.get_version()
        for directory in ("include", "src", "lib"):
            shutil.rmtree(package / directory, ignore_errors=True)  # of an older version
        shutil.copytree(HEADERS, package / "include" / "p2mfast")
        source = package / "src" / "p2mfast.c"
        source.parent.mkdir()
        source.write_text(amalgamate(version))
        for place, original in METAL.items():
            self._add_source(ROOT / original, source.parent / place)
        self._build_library(source, package)
        _describe(package / "lib", version)

    def _add_source(self, original: Path, place: Path) -> None:
        place.parent.mkdir(exist_ok=True)
        if self.inplace:
            place.symlink_to(original)  # a change in the tree is a change here
        elif original.is_dir():
            shutil.copytree(original, place, ignore=shutil.ignore_patterns("build", "__pycache__"))
        else:
            shutil.copyfile(original, place)

    def _build_library(self, source: Path, package: Path) -> None:
        """Of the one file: then the archive, too, has no names but the public ones."""
        objects = self.compiler.compile(
            [str(source)],
            output_dir=self.build_temp,
            include_dirs=[str(package / "include")],
            extra_postargs=self.library_flags,
        )
        self.compiler.create_static_lib(objects, "p2mfast", output_dir=str(package / "lib"))


def _describe(library_dir: Path, version: str) -> None:
    """The files by which pkg-config and CMake find the library."""
    words = {
        "@VERSION@": version,
        "@SERIES@": ".".join(version.split(".")[:2]),
        "@POINTER_BYTES@": str(struct.calcsize("P")),
    }
    for name, directory in (
        ("p2mfast.pc.in", "pkgconfig"),
        ("p2mfastConfig.cmake", "cmake/p2mfast"),
        ("p2mfastConfigVersion.cmake.in", "cmake/p2mfast"),
    ):
        text = (HERE / name).read_text()
        for word, value in words.items():
            text = text.replace(word, value)
        target = library_dir / directory / name.removesuffix(".in")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
