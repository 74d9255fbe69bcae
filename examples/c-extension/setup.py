"""Builds touches: headers are all that it needs of p2mfast."""

from setuptools import Extension, setup

import p2mfast

setup(
    name="touches",
    ext_modules=[
        Extension("touches", ["touches.c"], include_dirs=[p2mfast.get_include()]),
    ],
)
