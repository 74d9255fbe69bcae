"""The C tests of tests/c, as a user's pytest runs them: with the C compiler that is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "c"


def run(script: str, *arguments: str, **environment: str) -> str:
    """Run one of the scripts with `cc`, whatever CC says; its output."""
    for program in ("bash", "cc"):
        if shutil.which(program) is None:
            pytest.fail(
                f"the C tests need `{program}` in PATH: install a C compiler (gcc or clang)"
            )
    result = subprocess.run(
        ["bash", str(HERE / script), *arguments],
        env={**os.environ, "CC": "cc", "CFLAGS_EXTRA": "", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    if result.returncode:
        pytest.fail(f"{script} {' '.join(arguments)}: status {result.returncode}\n{result.stdout}")
    return result.stdout


@pytest.mark.parametrize("program", ["test_core", "test_hosted", "test_access", "test_simulator"])
def test_c_program(program):
    output = run("run.sh", program, VARIANTS="plain")
    assert output.rstrip().endswith(" passed, 0 failed")
    assert not output.rstrip().endswith("\n0 passed, 0 failed")


def test_a_million_hostile_images():
    output = run("run.sh", "test_image", VARIANTS="plain")
    images, findings = re.search(r"^(\d+) images, (\d+) findings$", output, re.M).groups()
    assert int(images) == 1_000_000
    assert int(findings) > int(images)


def test_core_is_freestanding():
    output = run("freestanding.sh", TARGETS="x86-64")
    assert output.startswith("x86-64: ")
    assert len(output.splitlines()) == 1
