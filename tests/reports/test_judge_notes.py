"""What judges noted, as lines beside a pair."""

from __future__ import annotations

from parallax.records import PreferencePair, Response
from parallax.reports.judge_notes import MOST, lines_of
from tests.preference.test_selector import NamedImage

CLAIMS = [
    {"claim": "a red star", "question": "Is there a red star?", "said": "Yes.", "holds": True},
    {"claim": "<b>a dog</b>", "question": "Is there a dog?", "said": "No.", "holds": False},
    {"claim": "a cat", "question": "Is there a cat?", "said": "Perhaps.", "holds": None},
]


def test_claims_stand_with_question_answer_and_mark() -> None:
    lines = lines_of(Response("It.", provenance={"judge": {"claims": CLAIMS, "confirmed": 1}}))
    assert lines == [
        ("✓", "a red star · question Is there a red star? · said Yes."),
        ("✗", "<b>a dog</b> · question Is there a dog? · said No."),
        ("?", "a cat · question Is there a cat? · said Perhaps."),
        ("", "confirmed 1"),
    ]


def test_comparisons_marks_and_names_of_trees() -> None:
    notes = {
        "tree": "0" * 32,
        "order": "both",
        "comparisons": [{"first": 1, "second": 0, "verdict": "first", "said": ""}],
    }
    pair = PreferencePair("s", "t", NamedImage(), "What?", Response("a"), (Response("b"),), meta={"judge": notes})
    assert lines_of(pair) == [("", "order both"), ("", "first 1 · second 0 · verdict first")]
    assert lines_of(
        Response("a", provenance={"judge": {"marks": [{"sentence": "A.", "right": False}], "mean": 0.12345}})
    ) == [
        ("✗", "A."),
        ("", "mean 0.123"),
    ]
    assert lines_of(Response("a")) == [] == lines_of(Response("a", provenance={"judge": "by construction"}))


def test_a_long_list_is_cut_and_says_so() -> None:
    lines = lines_of(Response("a", provenance={"judge": {"claims": [{"claim": str(n)} for n in range(40)]}}))
    assert len(lines) == MOST + 1 and lines[-1] == ("", f"and {40 - MOST} more")
