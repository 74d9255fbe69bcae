"""The extension modules; everything else is in pyproject.toml."""

import os
import sys
from glob import glob

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup

CORE = [
    "access",
    "batch",
    "check",
    "flush",
    "geometry",
    "listing",
    "lookup",
    "p2m",
    "reclaim",
    "regime",
    "runs",
    "scatter",
    "syndrome",
    "track",
    "update",
    "vec",
]
HOSTED = ["arena", "checkpoint", "events", "hosted"]

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
    sources=["p2mfast/_engine.pyx", *(f"csrc/{name}.c" for name in CORE + HOSTED)],
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

setup(ext_modules=cythonize([engine, image, limits], compiler_directives={"language_level": 3}))
