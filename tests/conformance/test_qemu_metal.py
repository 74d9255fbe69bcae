"""Boots of `p2mfast metal`, as its user sees them."""

from __future__ import annotations

from typing import Any

import pytest

from p2mfast.experiment import metal

pytestmark = pytest.mark.conformance


def measured() -> dict[str, Any]:
    """All that is told of a boot, but how long it took here."""
    data = metal.to_json([metal.run("linux-armhf", "arm=creation-finished")])
    del data["runs"][0]["wall_s"]
    return data


def test_what_is_counted_repeats() -> None:
    """To the instruction: a boot with one vCPU depends on nothing of the host's."""
    once = measured()
    assert once["runs"][0]["measured"]["instructions"] > once["runs"][0]["traps"] > 0
    assert measured() == once
