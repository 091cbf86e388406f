"""results.json and the table on the screen."""

import json
import math
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from parallax.evaluation import Evaluation, EvaluationItem, Metric
from parallax.reports.metric_names import direction, lookup, short_name, whole_name
from parallax.reports.results import (
    HEADLINE,
    arrow,
    flat_metrics,
    is_minor,
    make_results,
    metric_order,
    print_results,
    show,
    verdict,
    write_results,
)  # fmt: skip


def evaluation(wrong: int) -> Evaluation:
    """100 descriptions, `wrong` of them with one absent object among two mentions, and 100 short answers."""
    items = []
    for i in range(100):
        bad = float(i < wrong)
        scores = {"chair_i": (bad, 2.0), "chair_s": (bad, 1.0), "recall": (2.0 - bad, 2.0)}
        items.append(EvaluationItem("chair", f"c{i}", f"c{i}", "describe", "?", "a, b", "a b", True, scores))
        right = {"accuracy": (1 - bad, 1.0), "accuracy/colour": (1 - bad, 1.0)}
        items.append(EvaluationItem("accuracy", f"a{i}", f"a{i}", "colour", "?", "red", "red", True, right))
    return Evaluation.from_items(items, bootstrap_draws=200)


@pytest.fixture
def results() -> dict[str, object]:
    pairs = {"built": 8, "reused": 4, "kept": 3, "dropped": {"equal": 2, "empty": 1}}
    return make_results(evaluation(40), evaluation(10), pairs=pairs, method="seva", seed=3, steps=7, seconds=1.23456)


def test_results_json_has_the_promised_keys(results: dict, tmp_path: Path) -> None:
    written = json.loads(write_results(tmp_path / "run" / "results.json", results).read_text())
    for side in ("before", "after", "difference"):
        assert set(HEADLINE) <= set(written[side])
        assert {"value", "low", "high"} <= set(written[side]["chair_i"])
    assert written["before"]["chair_i"]["value"] == 0.2 and written["after"]["chair_i"]["value"] == 0.05
    assert written["difference"]["chair_i"]["value"] == pytest.approx(-0.15)
    assert written["relative_change"]["chair_i"]["value"] == pytest.approx(-0.75)
    assert written["after"]["pope_accuracy"]["value"] is None  # not measured, said so
    assert written["pairs"] == {"built": 8, "reused": 4, "kept": 3, "dropped": {"equal": 2, "empty": 1}}
    assert (written["method"], written["seed"], written["steps"], written["seconds"]) == ("seva", 3, 7, 1.235)


def test_results_without_evaluation_still_have_every_key() -> None:
    empty = make_results(None, None)
    assert empty["before"]["chair_i"]["value"] is None and empty["pairs"]["dropped"] == {}
    assert make_results(evaluation(1), None)["difference"]["accuracy"]["value"] is None


def test_a_sweep_finds_its_metric_by_path_and_nan_where_there_is_none(results: dict) -> None:
    assert lookup(results, "after/chair_i") == 0.05 and lookup(results, "difference/recall") == pytest.approx(0.15)
    assert lookup(results, "after/accuracy/colour") == 0.9 and lookup(results, "pairs/kept") == 3
    assert lookup(results, "steps") == 7
    assert math.isnan(lookup(results, "after/pope_accuracy")) and math.isnan(lookup(results, "nothing/here"))


def test_loggers_get_flat_numbers_only_of_what_was_measured(results: dict) -> None:
    flat = flat_metrics(results)
    assert flat["eval/chair_i"] == 0.05 and flat["eval_before/chair_i"] == 0.2 and flat["pairs/kept"] == 3
    assert flat["eval_change/accuracy"] == pytest.approx(0.3) and "eval/pope_accuracy" not in flat


def test_direction_and_verdict() -> None:
    down, up, unclear = Metric(-0.1, -0.2, -0.05, 9), Metric(0.1, 0.05, 0.2, 9), Metric(-0.1, -0.2, 0.1, 9)
    assert [direction(m) for m in ("chair_i", "coco/chair_s", "recall", "pope_yes_ratio", "pope_parse_failures")] == [
        -1,
        -1,
        1,
        0,
        -1,
    ]
    assert (
        verdict("chair_i", down) == "better" and verdict("chair_i", up) == "worse" and verdict("recall", up) == "better"
    )
    assert verdict("recall", unclear) == "unclear" and verdict("pope_yes_ratio", up) == "unclear"
    assert verdict("recall", Metric(None, None, None, 0)) == "unclear"
    assert (
        arrow("chair_i", down) == "▼ better" and arrow("recall", down) == "▼ worse" and arrow("recall", unclear) == "·"
    )


def test_numbers_read_well() -> None:
    assert show(Metric(0.1234, 0.1, 0.15, 9)) == "12.3 % [10.0, 15.0]"
    assert show(Metric(-0.0123, -0.02, 0.001, 9), points=True) == "−1.2 pp [−2.0, +0.1]"
    assert show(Metric(-0.0001, None, None, 9), points=True) == "0.0 pp" and show(Metric(None, None, None, 0)) == "–"


def test_minor_metrics_are_those_of_single_splits_but_accuracy() -> None:
    minor = [
        m
        for m in ("pope_accuracy", "pope_f1", "pope_precision", "pope_random_accuracy", "pope_random_f1", "recall")
        if is_minor(m)
    ]
    assert minor == ["pope_precision", "pope_random_f1"]


def test_the_table_on_the_screen_fits_and_says_better_or_worse(results: dict) -> None:
    for width in (80, 120):
        console = Console(file=StringIO(), width=width, force_terminal=False)
        print_results(results, console)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert max(map(len, text.splitlines())) <= width
        assert "CHAIR-i" in text and "▼ better" in text and "▲ better" in text and "…" not in text
        assert "3 kept, 3 dropped (2 equal, 1 empty)" in text
    assert "20.0 % [" in text and "POPE" not in text


def test_headlines_come_first_and_kinds_below_their_headline(results: dict) -> None:
    assert metric_order(results) == ["chair_i", "chair_s", "recall", "accuracy", "accuracy/colour"]


def test_metrics_have_the_names_people_know() -> None:
    keys = ("pope_f1", "pope_random_accuracy", "accuracy/colour", "amber_hal", "mme_cognition_score", "coco/chair_s")
    assert [short_name(key) for key in keys] == [
        "POPE F1", "POPE random accuracy", "Accuracy, colour", "AMBER Hal", "MME cognition score", "COCO, CHAIR-s",
    ]  # fmt: skip
    assert whole_name("chair_i").startswith("CHAIR-i, ") and whole_name("textvqa_accuracy") == "TextVQA accuracy"


def test_a_run_that_measured_nothing_ends_with_what_it_made() -> None:
    console = Console(file=StringIO(), width=80)
    nothing = make_results(None, None, pairs={"built": 4, "kept": 3, "dropped": {"equal": 1}}, steps=7, seconds=2.0)
    print_results(nothing, console)
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "7 optimiser steps in 2 s; nothing was measured.",
        "Pairs: 3 kept, 1 dropped (1 equal); answers generated 4, reused 0",
    ]
