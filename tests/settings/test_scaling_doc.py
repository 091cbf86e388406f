"""Every command of docs/scaling.md composes and passes the check; those about other programs are known by name."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from parallax.settings.check import find_problems

DOC = Path(__file__).parents[2] / "docs" / "scaling.md"
LINES = [line.strip() for line in DOC.read_text().splitlines() if line.startswith("    ")]
OURS = [line for line in LINES if "run.py" in line and not line.startswith("#")]


def overrides(line: str) -> list[str]:
    words = shlex.split(line)
    return words[words.index("run.py") + 1 :]


@pytest.mark.parametrize("line", OURS, ids=[str(number) for number in range(len(OURS))])
def test_a_command_of_the_page_composes_and_passes(line: str, compose_config: Callable[..., DictConfig]) -> None:
    assert find_problems(compose_config(*overrides(line)), complete=False) == {}


def test_nothing_else_stands_between_the_commands() -> None:
    assert len(OURS) >= 14
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
