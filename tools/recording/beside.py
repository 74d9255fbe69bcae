"""The plugin beside the monitor at EL2 (examples/el2_monitor): the guest recorded, and each of the
monitor's flushes judged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tooling import ToolError

from p2mfast.experiment.metal import interface
from recording import RAM_BASE
from recording.build import INTERFACE
from recording.log import Log, read
from recording.machine import plugin_options


class Beside(NamedTuple):
    """The plugin, what it has to know of the machine, and a directory for what it writes.

    ``memory`` is all RAM, the monitor's included; ``bits`` the guest's.
    """

    plugin: Path
    directory: Path
    bits: int
    memory: int
    check: bool = False

    def amend(self, command: Sequence[str]) -> list[str]:
        """QEMU's command with the plugin. Its RAM has to be one memory backend with share=on."""
        words = {
            "el2": hex(RAM_BASE + self.memory - interface.read(INTERFACE)["MONITOR_BYTES"]),
            "oracle": self.directory / "oracle.json",
        }
        return [
            *command,
            *plugin_options(
                self.plugin, self.directory, self.bits, self.memory, check=self.check, more=words
            ),
        ]

    def log(self) -> Log:
        """What was recorded of the guest, once QEMU has ended."""
        return read(self.directory / "log")

    def judgements(self) -> Judgements:
        """What the monitor's flushes came to, once QEMU has ended."""
        path = self.directory / "oracle.json"
        if not path.exists():
            raise ToolError(f"{path} is not there: QEMU did not come to its end")
        data = json.loads(path.read_text())
        return Judgements(data["flushes"], data["totals"])


class Judgements(NamedTuple):
    """A record for each flush, and their sums; tools/README.md has the names."""

    flushes: list[dict[str, Any]]
    totals: dict[str, int]

    @property
    def faults(self) -> list[str]:
        """What was wrong, in words; with none, every flush cleaned what it had to."""
        wrong = {
            "missed": "pages were written and not cleaned by the next flush",
            "not_clean": "flushes cleaned other than the lines of their pages",
            "unjudged": "flushes were not judged: the monitor's logs were full",
            "disorder": "marks were out of order",
            "zeroings": "DC ZVA instructions, whose stores are not seen",
            "unresolved": "accesses had no address",
        }
        return [
            f"{self.totals[name]} {words}" for name, words in wrong.items() if self.totals[name]
        ]
