"""What is put aside is written, counted, and too much when it is too much."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parallax.records.skipped import FEW, SetAside, SkippedLog, TooManySkipped


def item(number: int) -> SetAside:
    return SetAside(f"s{number}", "folder", "bad_image" if number % 2 else "bad_row", f"image {number} is corrupt")


def test_each_item_is_one_line_with_its_reason(tmp_path: Path) -> None:
    log = SkippedLog(tmp_path / "run" / "skipped.jsonl", 0.5, total=10)
    for number in (1, 2, 1):
        log.add(item(number))
    SkippedLog(tmp_path / "run" / "skipped.jsonl", 0.5, total=10).add(item(2))  # the run goes on: no second line
    lines = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert lines == [
        {"item": "s1", "source": "folder", "reason": "bad_image", "why": "image 1 is corrupt"},
        {"item": "s2", "source": "folder", "reason": "bad_row", "why": "image 2 is corrupt"},
    ]
    assert log.counts() == {"bad_image": 1, "bad_row": 1}


def test_past_the_share_it_stops_with_counts_and_advice() -> None:
    log = SkippedLog(None, 0.05, total=1000)
    for number in range(50):
        log.add(item(number))
    with pytest.raises(TooManySkipped, match=r"51 of 1000 .*26 bad_row.*raise pairs\.max_skipped_share"):
        log.add(item(50))


def test_a_few_are_always_allowed_unless_none_is() -> None:
    log = SkippedLog(None, 0.05, total=20)
    for number in range(FEW):
        log.add(item(number))
    with pytest.raises(TooManySkipped):
        log.add(item(FEW))
    with pytest.raises(TooManySkipped):
        SkippedLog(None, 0.0, total=1000).add(item(0))


def test_a_line_cut_off_by_a_crash_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "skipped.jsonl"
    path.write_text('{"item": "s1", "sou')
    SkippedLog(path, 0.5, total=10).add(item(3))
    assert "s3" in path.read_text()
