"""Every command of docs/gpu.md that is ours composes and passes the check, the one in the Slurm file too."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from parallax.settings.command_line import prepare

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8").splitlines()
OURS = [line.strip() for line in PAGE if "run.py " in line and line.startswith(("    ", "srun "))]


@pytest.mark.parametrize("line", OURS, ids=[str(number) for number in range(len(OURS))])
def test_a_command_of_the_page_composes_and_passes(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    typed = shlex.split(line)
    prepare(typed[typed.index("run.py") + 1 :], ROOT / "conf", complete=False)
    given = dict(word.split("=", 1) for word in typed if "=" in word)
    assert given.get("--nproc_per_node", "1") == given.get("trainer.devices", "1")


def test_the_page_begins_with_a_command_and_holds_the_three_sizes() -> None:
    assert len(OURS) >= 9
    assert PAGE[2].strip() in OURS
    assert {"trainer.devices=2", "trainer.devices=8", "trainer=gpu"} <= {word for line in OURS for word in line.split()}
