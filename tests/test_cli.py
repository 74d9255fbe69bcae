"""The command line as a user calls it: what it prints, writes and returns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from p2mfast.cli import main


def test_replay_without_arguments(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["replay", "--json", str(tmp_path / "out.json")]) == 0
    printed = capsys.readouterr().out
    for words in ("linux-armhf-smp4-2G", "no tracking", "Xen's", "p2mfast's", "modelled"):
        assert words in printed
    runs = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert [(run["policy"]["arm"], run["page_order"]) for run in runs] == [
        (arm, order)
        for arm in ("never", "creation-finished", "creation-finished", "first-set-way")
        for order in (0, 9)
    ]
    assert [run["policy"]["flush"] for run in runs[::2]] == ["all", "leaf", "harvest", "harvest"]


def test_replay_of_chosen_traces_policies_and_page_order(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    status = main([
        "replay", "linux-armhf-smp4-512M", "uefi64-smp2-512M-kernel", "--policy", "arm=never",
        "--policy", "arm=map,fault_around=4", "--page-order", "18", "--json", str(out),
        "--cost", "page_clean_ns=1000", "--cost", "arm_ns=0",
    ])  # fmt: skip
    assert status == 0
    printed = capsys.readouterr().out
    assert "arm=map,fault_around=4" in printed
    document = json.loads(out.read_text())
    assert document["cost_model"] == {"page_clean_ns": 1000.0, "trap_ns": 390.0, "arm_ns": 0.0}
    runs = document["runs"]
    assert len(runs) == 4
    assert {run["page_order"] for run in runs} == {18}
    assert [run["trace"] for run in runs] == [
        "linux-armhf-smp4-512M", "linux-armhf-smp4-512M", "uefi64-smp2-512M-kernel",
        "uefi64-smp2-512M-kernel",
    ]  # fmt: skip
    assert runs[0]["modelled_worst_ms"] == pytest.approx(131.072)


def test_a_policy_from_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[policy]\narm = "never"\nflush = "all"\n')
    out = tmp_path / "out.json"
    assert main(["replay", "--policy", str(file), "--page-order", "18", "--json", str(out)]) == 0
    (run,) = json.loads(out.read_text())["runs"]
    assert (run["policy"]["arm"], run["policy"]["flush"]) == ("never", "all")
    file.write_text("arm = 'later'")
    assert main(["replay", "--policy", str(file)]) == 2
    assert "later" in capsys.readouterr().err
    assert main(["replay", "--policy", str(tmp_path / "none.toml")]) == 2
    assert "none.toml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["replay", "nothing-there"], "nothing-there"),
        (["replay", __file__], "test_cli.py"),
        (["replay", "--policy", "arm=later"], "later"),
        (["replay", "--cost", "page_clean_ns=fast"], "fast"),
        (["replay", "--cost", "page_clean_ns=nan"], "nan"),
        (["replay", "--cost", "speed=1"], "speed=1"),
        (["replay", "--json", "/no/such/folder/out.json", "--page-order", "18"], "/no/such/folder"),
    ],
)
def test_a_users_mistake_is_a_message_and_status_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("arguments", [[], ["no-command"], ["replay", "--page-order", "3"]])
def test_a_wrong_call_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_as_a_module_into_a_closed_pipe(tmp_path: Path) -> None:
    """A pager that is quit early is no mistake."""
    command = f"{sys.executable} -m p2mfast replay linux-armhf-smp4-512M | head -n 1"
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=tmp_path,  # not the source tree, which has no compiled engine
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.strip() == "linux-armhf-smp4-512M"
    assert "Traceback" not in result.stderr
