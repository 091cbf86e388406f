"""The padding benchmark prints what the sampler really does, on every distribution it knows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.length_distributions import DISTRIBUTIONS

ROOT = Path(__file__).resolve().parents[2]


def test_packing_never_pads_more_than_pairs_as_they_come(tmp_path: Path) -> None:
    numbers = tmp_path / "padding.json"
    command = [sys.executable, "benchmarks/padding.py", "--pairs", "256", "--processes", "2", "--json", str(numbers)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = json.loads(numbers.read_text())["rows"]
    assert {row["lengths"] for row in rows} == set(DISTRIBUTIONS) and "free_sizes" in done.stdout
    for row in rows:
        assert row["padding"]["packed"] < row["padding"]["as they come"]
        assert row["passes"]["packed"] <= row["passes"]["as they come"]
