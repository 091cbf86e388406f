"""The sign test and the win rate, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from parallax.evaluation import Evaluation, EvaluationItem
from parallax.evaluation.judged.client import JudgeClient
from parallax.evaluation.judged.win_rate import read_preference, win_rate
from parallax.evaluation.over_seeds import sign_test, sign_tests, wins_of
from tests.evaluation.judge_server import judging
from tests.parts import part


def evaluation(rows: list[tuple[str, str, float, str]]) -> Evaluation:
    items = [
        EvaluationItem("suite", name, image, "", f"question {name}", "", answer, True, {"accuracy": (right, 1.0)})
        for name, image, right, answer in rows
    ]
    return Evaluation.from_items(items, bootstrap_draws=0)


def test_the_p_value_is_twice_the_tail_of_a_fair_coin() -> None:
    assert sign_test(9, 1).p == pytest.approx(2 * (1 + 10) / 2**10)
    assert sign_test(5, 5).p == 1.0 and sign_test(1, 0).p == 1.0 and sign_test(0, 0, 7).p is None
    assert sign_test(6, 0).p == pytest.approx(2 / 64)


def test_questions_about_one_image_are_one_throw() -> None:
    first = evaluation([("a", "1", 0, ""), ("b", "1", 1, ""), ("c", "2", 0, ""), ("d", "3", 1, ""), ("e", "4", 1, "")])
    second = evaluation([("a", "1", 1, ""), ("b", "1", 1, ""), ("c", "2", 1, ""), ("d", "3", 1, ""), ("x", "4", 0, "")])
    test = sign_tests(first, second)["accuracy"]
    assert (test.higher, test.lower, test.equal, test.p) == (2, 0, 1, 0.5)


def test_a_side_wins_only_if_the_order_of_the_answers_does_not_matter() -> None:
    said = [
        ("second", "second"),
        ("second", "tie"),
        ("first", "second"),
        ("tie", "tie"),
        ("first", "first"),
        (None, "first"),
    ]
    assert wins_of(said) == (2, 1, 2, 1)
    assert read_preference("The first one is vague.\nSecond") == "second" and read_preference("tie.") == "tie"
    assert read_preference("first or second") is None and read_preference("") is None


def test_a_judge_that_always_takes_the_first_answer_prefers_nobody() -> None:
    first = evaluation([("a", "1", 0, "short"), ("b", "2", 0, "same")])
    second = evaluation([("a", "1", 0, "a longer answer"), ("b", "2", 0, "same")])
    text = "{question} {truth} 1: {first} 2: {second}"

    def longer(body: dict[str, Any], before: int) -> str:
        one, two = body["messages"][0]["content"].split(" 1: ")[1].split(" 2: ")
        return "first" if len(one) > len(two) else "second"

    for answer, expected in ((lambda body, before: "first", (0, 0, 1, 1)), (longer, (1, 0, 0, 1))):
        with judging(answer) as server:
            found = win_rate(first, second, part(JudgeClient, server.url, "judge", retries=0), text)
        assert (found.wins, found.losses, found.ties, found.same) == expected
