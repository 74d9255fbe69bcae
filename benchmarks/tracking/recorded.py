"""Boots with the recorder beside the monitor: what each flush should have cleaned, and a trace of
the very boot, from which a replay predicts the others."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from recording.beside import Beside
from recording.build import build
from recording.log import convert, save

from p2mfast.experiment import metal
from p2mfast.experiment.replay import replay
from p2mfast.experiment.trace import load
from p2mfast.hypervisor.policy import Policy
from tracking.cases import ORDERS, POLICIES, RECORDED, Case, Judged

MEMORY = 512 << 20


def _boot(
    directory: Path, guest: str, policy: str, vcpus: int, guests: Path | None, **more: Any
) -> tuple[metal.MetalRun, Beside]:
    """Without DC ZVA, whose stores the recorder does not see."""
    options = ["trap-zva", *more.pop("options", ())]
    found = metal.guests.find(guest, guests)
    beside = Beside(build(directory), directory, found.bits, MEMORY)
    run = metal.run(
        found, policy, vcpus, MEMORY, options=options, amend=beside.amend, timeout=900, **more
    )
    return run, beside


def judge(case: Judged, guests: Path | None) -> dict[str, Any]:
    """What the oracle says of a boot of 32-bit Linux."""
    with tempfile.TemporaryDirectory(prefix="tracking-") as directory:
        _, beside = _boot(
            Path(directory),
            "linux-armhf",
            case.policy,
            case.vcpus,
            guests,
            hotplug=3 if case.vcpus > 1 else 0,
            options=case.options,
        )
        return case._asdict() | {"totals": beside.judgements().totals}


def predict(guest: str, guests: Path | None) -> dict[str, dict[str, Any]]:
    """By the key of the boot that each prediction is of: pages of each flush, and faults."""
    with tempfile.TemporaryDirectory(prefix="tracking-") as name:
        directory = Path(name)
        _, beside = _boot(directory, guest, RECORDED, 1, guests)
        path = directory / f"{guest}.npz"
        save(path, convert(beside.log(), guest, guest, "QEMU"))
        trace = load(path)
    predictions = {}
    for policy in POLICIES:
        for order in ORDERS:
            run = replay(trace, Policy.parse(policy), order)
            predictions[Case(guest, policy, "512M", order).key] = {
                "policy": policy,
                "page_order": order,
                "pages": [flush.pages for flush in run.flushes],
                "traps": run.traps,
            }
    return predictions
