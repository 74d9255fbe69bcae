"""Builds the two modules. Cython finds the .pxd files of an installed p2mfast by itself."""

from Cython.Build import cythonize
from setuptools import Extension, setup

import p2mfast

lookups = Extension("lookups", ["lookups.pyx"], include_dirs=[p2mfast.get_include()])
own = Extension(
    "own",
    ["own.pyx"],
    include_dirs=[p2mfast.get_include()],
    library_dirs=[p2mfast.get_library_dir()],
    libraries=["p2mfast"],
    extra_link_args=["-pthread"],
)

setup(name="p2mfast-cython-example", ext_modules=cythonize([lookups, own]))
