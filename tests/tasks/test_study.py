"""A study from the command line: every arm an ordinary run, one table, and nothing done twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from parallax.reports.study import markdown

ROOT = Path(__file__).parents[2]
WORDS = (
    "experiment=seva_evidence", "study.seeds=[0]", "data.size=12", "trainer=cpu", "trainer.max_epochs=1",
    "evaluation.scenes=6", "evaluation.pope_scenes=1", "evaluation.bootstrap=20",
)  # fmt: skip


def command(tmp_path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    words = [*WORDS, f"study.folder={tmp_path / 'study'}", f"paths.cache_dir={tmp_path / 'cache'}", *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "run.py", *words, f"hydra.run.dir={tmp_path / 'hydra'}"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


def test_a_study_runs_its_arms_once_and_writes_a_table(tmp_path: Path) -> None:
    first = command(tmp_path)
    assert first.returncode == 0, first.stderr[-2000:]
    summary = json.loads((tmp_path / "study/evidence.json").read_text())
    assert set(summary["arms"]) == {"dpo", "stic"}
    for arm in summary["arms"].values():
        assert arm["seeds"] == 1 and {"chair_i", "recall", "accuracy"} <= set(arm["effects"])
    table = (tmp_path / "study/evidence.md").read_text()
    assert "| dpo | 1 |" in table and "| stic | 1 |" in table
    assert (tmp_path / "study/evidence.png").stat().st_size > 1000

    again = command(tmp_path)
    assert again.returncode == 0, again.stderr[-2000:]
    assert again.stdout.count("done before, kept") == 2
    assert (tmp_path / "study/evidence.md").read_text() == table


def test_a_wrong_arm_is_told_before_any_run(tmp_path: Path) -> None:
    done = command(tmp_path, "study.arms.dpo=['loss.beta=-1']")
    assert done.returncode != 0 and "arm dpo" in done.stderr and "loss.beta=-1" in done.stderr
    assert not (tmp_path / "study/dpo").exists()


def test_better_is_bold_only_when_the_interval_excludes_zero() -> None:
    def effect(low: float, high: float) -> dict[str, float]:
        middle = (low + high) / 2
        return {
            "before": 0.1, "after": 0.1 + middle, "change": middle, "change_low": low, "change_high": high,
            "relative": 10 * middle, "relative_low": 10 * low, "relative_high": 10 * high,
        }  # fmt: skip

    def row(low: float, high: float) -> str:
        arm = {"seeds": 1, "effects": {"chair_i": effect(low, high)}, "training": {"margin": 1.0}, "pairs": {"kept": 3}}
        text = markdown({"title": "t", "command": "c", "metric": "chair_i", "arms": {"a": arm}})
        return text.splitlines()[-1]

    assert "**10.00 → 7.00, -30.0 % [-40.0, -20.0]**" in row(-0.04, -0.02)
    assert "**" not in row(-0.04, 0.02) and "**" not in row(0.02, 0.04)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["evidence", "controls", "noise_steps"])
def test_every_study_composes(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "run.py", f"experiment=seva_{name}", "--cfg", "job"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and "arms:" in done.stdout
