"""The table of the memory planner against the allocator: the script end to end on a toy."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.memory import main


def test_the_table_is_printed_and_close_to_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = main(["--model", "tiny", "--quick", "--json", str(tmp_path / "memory.json")])
    assert 0.9 < content["smallest_ratio"] <= content["largest_ratio"] < 1.1
    assert "forecast / measured lies between" in capsys.readouterr().out
