"""Every command of docs/scaling.md composes and passes the check; those about other programs are known by name."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from parallax.settings.command_line import prepare

CONF = Path(__file__).parents[2] / "conf"
DOC = Path(__file__).parents[2] / "docs" / "scaling.md"
LINES = [line.strip() for line in DOC.read_text().splitlines() if line.startswith("    ")]
OURS = [line for line in LINES if "run.py" in line and not line.startswith("#")]


def words(line: str) -> list[str]:
    """What is given to run.py; in a loop of the shell, for its first value."""
    loop = re.fullmatch(r"for (\w+) in (\S+).*; do (.*); done", line)
    if loop:
        line = loop[3].replace(f"${loop[1]}", loop[2])
    typed = shlex.split(line)
    return typed[typed.index("run.py") + 1 :]


@pytest.mark.parametrize("line", OURS, ids=[str(number) for number in range(len(OURS))])
def test_a_command_of_the_page_composes_and_passes(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(str(number) for number in range(8)))
    prepare(words(line), CONF, complete=False)


def test_nothing_else_stands_between_the_commands() -> None:
    assert len(OURS) >= 22
    others = [line for line in LINES if line not in OURS and not line.startswith("#")]
    assert all("vllm" in line for line in others), others


@pytest.mark.parametrize("line", [line for line in OURS if line.startswith("torchrun")])
def test_torchrun_and_the_trainer_agree_on_the_number_of_processes(line: str) -> None:
    said = dict(word.split("=", 1) for word in shlex.split(line) if "=" in word)
    assert said["--nproc_per_node"] == said["trainer.devices"]
    assert said.get("--nnodes", "1") == said.get("trainer.num_nodes", "1")


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    from lightning_modules.pair_builder import WINDOW
    from parallax.models.saving import SHARD
    from parallax.records.leases import SILENCE

    text = re.sub(r"\s+", " ", DOC.read_text())
    assert WINDOW == 16 and "sixteen batches" in text
    assert SILENCE == 60 and "for a minute" in text
    assert SHARD == "5GB" and "at most 5 GB" in text
