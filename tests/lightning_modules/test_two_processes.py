"""Two processes make the steps of one, though they hold different numbers of pairs and micro-batches.

In float64: Adam divides a gradient by its own size, so rounding noise of a gradient near zero would become a step.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("ddp_fit.py")


@pytest.mark.slow
def test_two_processes_equal_one(checkpoint: Path, tmp_path: Path) -> None:
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        command = [sys.executable, str(SCRIPT), str(checkpoint), str(folder), str(processes)]
        done = subprocess.run(
            command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert [path.name for path in (folder / "checkpoints").glob("*.ckpt")] == ["step-000003.ckpt"]
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("1", "2"))
    assert len(one) == 3 and one[0]["train/loss"] != one[2]["train/loss"]
    for alone, together in zip(one, two, strict=True):
        assert together == pytest.approx(alone, rel=1e-7, abs=1e-9)
    kept = [json.loads((tmp_path / name / "kept.json").read_text()) for name in ("1", "2")]
    assert kept[0]["2/steps"] == 3 and kept[1] == pytest.approx(kept[0], rel=1e-7)
    weights = [torch.load(tmp_path / name / "trained.pt", weights_only=True) for name in ("1", "2")]
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=1e-9), name
