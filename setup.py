"""The extension modules, and what the package holds for embedders; everything else is in
pyproject.toml."""

import os
import sys
from glob import glob
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]  # a build front end need not have them there

from amalgamate import sources  # noqa: E402

from _build.embedding import BuildEmbedding  # noqa: E402

# Distutils brings -O2 -g and exports every symbol: what comes last on the command line wins.
# Never -march=native: a wheel runs elsewhere.
flags = ["-std=c11", "-O3", "-g0", "-fvisibility=hidden", "-fno-semantic-interposition"]
link = [] if sys.platform == "darwin" else ["-Wl,-s"]

# For the sanitizers' and the warnings' runs in CI.
extra = os.environ.get("P2MFAST_EXTRA_CFLAGS", "").split()
flags += extra
link += [flag for flag in extra if flag.startswith("-fsanitize")]

engine = Extension(
    "p2mfast._engine",
    sources=["p2mfast/_engine.pyx", *(f"csrc/{path.name}" for path in sources())],
    include_dirs=["csrc", "csrc/include", np.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
    extra_compile_args=flags,
    extra_link_args=link,
    depends=[*glob("csrc/**/*.h", recursive=True), *glob("p2mfast/*.pxi")],
)

image = Extension(
    "p2mfast._image",
    sources=["p2mfast/_image.pyx", *(f"csrc/{name}.c" for name in ("image", "geometry", "vec"))],
    include_dirs=["csrc", "csrc/include", np.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
    extra_compile_args=flags,
    extra_link_args=link,
    depends=glob("csrc/**/*.h", recursive=True),
)

limits = Extension(
    "p2mfast._limits",
    sources=["p2mfast/_limits.pyx"],
    include_dirs=["csrc/include", np.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
    extra_compile_args=flags,
    extra_link_args=link,
)

unicorn_fill = Extension(
    "p2mfast._unicorn_fill",
    sources=["p2mfast/_unicorn_fill.pyx"],
    include_dirs=["csrc/include"],
    extra_compile_args=flags,
    extra_link_args=link,
    depends=glob("csrc/include/**/*.h", recursive=True),
)

# It is linked by whoever has another compiler, so that nothing of this one's may be in it.
BuildEmbedding.library_flags = [*flags, "-fPIC", "-fno-lto"]

setup(
    ext_modules=cythonize(
        [engine, image, limits, unicorn_fill], compiler_directives={"language_level": 3}
    ),
    cmdclass={"build_ext": BuildEmbedding},
)
