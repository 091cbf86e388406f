"""The benchmarks' clock: sides take turns, warm-up does not count, the numbers come out with what they were measured on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.measure import interleaved, medians, parser, spread, table, write_json


def test_sides_take_turns_and_warm_up_does_not_count() -> None:
    calls: list[str] = []
    times = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warmup=1)
    assert calls == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


def test_no_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        interleaved({"a": lambda: None}, rounds=0)


def test_medians_and_spread() -> None:
    assert medians({"a": [1.0, 9.0, 2.0]}) == {"a": 2.0}
    assert spread([1.0, 2.0, 4.0]) == pytest.approx(1.5)


def test_a_table_is_aligned_markdown() -> None:
    lines = table(["what", "pairs/s"], [["ours", 123.456], ["theirs", 7.0]]).splitlines()
    assert lines == ["| what   | pairs/s |", "|--------|---------|", "| ours   | 123     |", "| theirs | 7       |"]


def test_json_says_what_it_was_measured_on(tmp_path: Path) -> None:
    path = write_json(tmp_path / "deep" / "x.json", {"ratio": 2.0})
    content = json.loads(path.read_text())
    assert content["ratio"] == 2.0 and content["machine"]["threads"] >= 1 and content["command"].startswith("python")


def test_every_benchmark_has_the_same_options() -> None:
    options = parser("benchmarks/x.py", "says").parse_args(["--rounds", "2"])
    assert (options.rounds, options.warmup, options.threads) == (2, 1, 0)
    assert options.json == Path("outputs/benchmarks/x.json")
