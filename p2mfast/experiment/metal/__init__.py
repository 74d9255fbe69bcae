"""Boots of real guests under the monitor at EL2 (examples/el2_monitor), in QEMU, measured.

``interface`` reads what the monitor and the host agree on, ``programs`` builds the monitor,
``guests`` finds kernels, ``machine`` makes QEMU's command line, ``run`` boots, ``result`` says what
it came to, ``report`` prints it.
"""

from __future__ import annotations

from p2mfast.experiment.metal.guests import GUESTS, Guest
from p2mfast.experiment.metal.result import MetalCpu, MetalFlush, MetalRun, to_json
from p2mfast.experiment.metal.run import MetalError, Progress, check_boot, run

__all__ = [
    "GUESTS",
    "Guest",
    "MetalCpu",
    "MetalError",
    "MetalFlush",
    "MetalRun",
    "Progress",
    "check_boot",
    "run",
    "to_json",
]
