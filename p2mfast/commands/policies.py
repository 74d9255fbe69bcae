"""The option --policy, which several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path

from p2mfast.hypervisor.policy import Policy


def add_policies(parser: argparse.ArgumentParser) -> None:
    """--policy, any number of times."""
    parser.add_argument(
        "--policy",
        action="append",
        metavar="STRING",
        help="such as arm=creation-finished,resolve=level,flush=leaf, or a TOML file (.toml);"
        " may be repeated (default: four that compare no tracking, Xen's and p2mfast's)",
    )


def parse_policy(text: str) -> Policy:
    """The policy of one."""
    return Policy.from_toml(Path(text)) if text.endswith(".toml") else Policy.parse(text)
