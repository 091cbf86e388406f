"""The sweep benchmark on two tiny runs, real processes on both sides: the sweep makes every answer and reference once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_sweep_over_beta_generates_and_scores_once_where_independent_runs_do_it_each(tmp_path: Path) -> None:
    numbers = tmp_path / "sweep.json"
    command = [
        sys.executable, "benchmarks/sweep_cost.py", "--scenes", "12", "--noise-steps", "600", "--betas", "0.1", "1.0",
        "--evaluation", "none", "--json", str(numbers), "--work", str(tmp_path), "trainer=cpu", "debug.max_steps=1",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    content = json.loads(numbers.read_text())
    (sweep,), (independent,) = content["sides"]["sweep"], content["sides"]["independent"]
    assert sweep["runs"] == independent["runs"] == 2
    assert sweep["generated"] == sweep["reused"] == 24 and independent["generated"] == 48
    assert sweep["references_computed"] * 2 == independent["references_computed"] > 0
    assert content["ratio"] > 0 and "of independent runs" in done.stdout
