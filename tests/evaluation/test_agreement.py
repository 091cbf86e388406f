"""Agreement with the truth: what is true of two answers, and the interval, by hand."""

from __future__ import annotations

import pytest

from parallax.evaluation.agreement import agreement, true_preference, wilson

TRUTH = ("red circle", "blue star", "green cross")


@pytest.mark.parametrize(
    ("first", "second", "better"),
    [
        (["red circle"], ["red circle", "blue circle"], 0),  # fewer hallucinations
        (["red star", "blue star", "green cross"], ["red circle"], 1),  # even where more is found
        (["red circle"], ["red circle", "blue star"], 1),  # as many hallucinations: more found
        (["red circle"], ["blue star"], None),
        (["red star"], ["blue circle"], None),
    ],
)
def test_the_truer_of_two_answers(first: list[str], second: list[str], better: int | None) -> None:
    assert true_preference(first, second, TRUTH) == better
    other = true_preference(second, first, TRUTH)
    assert other == (None if better is None else 1 - better)


def test_decisions_are_counted_against_the_truth() -> None:
    found = agreement([0, 1, None, 0, 0, None], [0, 0, 1, 0, None, None])
    assert (found.right, found.decided, found.undecided) == (2, 3, 1)
    assert found.share == pytest.approx(2 / 3)
    assert "2" in found.words() or "66.7%" in found.words()
    assert "no better than chance" in found.words()


def test_the_interval_is_wilsons() -> None:
    """80 of 100: (0.8 + z²/200 ± z·sqrt(0.0016 + z²/40000)) / (1 + z²/100) with z = 1.96."""
    low, high = wilson(80, 100)
    assert (low, high) == (pytest.approx(0.7112, abs=1e-3), pytest.approx(0.8666, abs=1e-3))
    assert wilson(0, 0) == (0.0, 1.0) and wilson(0, 10)[0] == 0.0 and wilson(10, 10)[1] == pytest.approx(1.0)


def test_words_say_whether_chance_can_be_told_apart() -> None:
    assert "better than chance" in agreement([0] * 90 + [1] * 10, [0] * 100).words()
    assert "worse than chance" in agreement([1] * 90 + [0] * 10, [0] * 100).words()
    assert "no decision to compare" in agreement([None], [0]).words()
