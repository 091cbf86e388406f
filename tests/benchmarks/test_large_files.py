"""A run on a large file makes its first step about as soon as one on a small file."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.large_files import first_steps, write_file, write_images


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_the_first_step_on_a_large_file_waits_for_few_rows(tmp_path: Path, ending: str) -> None:
    write_images(tmp_path / "images")
    small, large = (
        first_steps(write_file(tmp_path / f"{count}.{ending}", count), tmp_path / "images", tmp_path / str(count))
        for count in (64, 200_000)
    )
    assert large["seconds"] < small["seconds"] + 20
    assert large["mib"] < small["mib"] + 1024
