"""The verdict parser: over eighty phrasings, and never an exception."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from parallax.preference.verdict import read_verdict

CASES = {
    "first": [
        "[[1]]",
        "[[ 1 ]]",
        "[ [1] ]",
        "[[first]]",
        "【【1】】",
        "[[1]]\n\n",
        "[1]",
        "verdict : 1",
        "Final verdict: **1**",
        "The answer is 1.",
        "Winner = response 1",
        "Decision - 1",
        "The better response is 1",
        "Verdict: 1 is better than 2",
        "response 1 is better",
        "The first response is better than the second.",
        "1 wins",
        "I would choose the first answer.",
        "Answer 2 is less accurate than answer 1.",
        "It is not a tie: response 1 is better",
        "1",
        "(1)",
        "Response 1",
        "A",
        "Response 1 mentions a star, response 2 does not; response 1 is preferred",
        "Response A is better",
        "Response 1 outperforms response 2.",
        "The second response invents a dog, and the first is closer to the image.",
        "Response 2 is fluent but response 1 is better",
        "The second man is stronger, but answer 1 is the better answer.",
        "I think 1 is better",
        "The latter is vague, the former is more accurate.",
    ],
    "second": [
        "[[2]]",
        "Answer: [[ 2 ]]",
        "[[2]].",
        "[[1]] at first sight, but on reflection [[2]]",
        "[[Response 2]]",
        "［［2］］",
        "⟦2⟧",
        "**[[2]]**",
        "I decide for [2].",
        "Verdict: 2",
        "VERDICT: RESPONSE 2",
        "Verdict：2",
        "Answer: 2",
        "My choice is answer 2.",
        "Better: 2",
        "Best answer: 2",
        "Verdict: 1. On second thought, verdict: 2",
        "Conclusion: answer 1 is worse.",
        "Response 2 is clearly more accurate.",
        "The second one fits the image better",
        "2 is better than 1",
        "I prefer response 2.",
        "Response 1 is not the better one.",
        "Response 1 is worse.",
        "Response 1 is not as good as response 2",
        "Both are good, but response 2 is better.",
        "2.",
        "answer #2",
        "Answer B",
        "response 1 names a thing that is not there, whereas\nresponse 2 is better aligned",
        "RESPONSE TWO WINS",
        "The latter is more faithful.",
        "Response 2 has fewer errors",
        "response 1 has more hallucinations",
        "[[1]] or [[2]]?",
    ],
    "tie": [
        "[[tie]]",
        "[[C]]",
        "[[both]]",
        "[[none]]",
        "[[neither]]",
        "Verdict: tie",
        "Verdict: both are equally good",
        "Both answers are equally good.",
        "It is a tie.",
        "Neither is better.",
        "There is no difference between them.",
        "I cannot decide.",
    ],
    "unreadable": [
        "[[1",
        "[[3]]",
        "[[]]",
        "Response 1 is not better.",
        "Response 1 isn't better than response 2",
        "I do not prefer response 1.",
        "",
        "I see a red circle.",
        "The top row has 2 circles and 1 star.",
        "12",
        "1.5",
    ],
}


@pytest.mark.parametrize(("text", "verdict"), [(text, verdict) for verdict, texts in CASES.items() for text in texts])
def test_a_phrasing_is_read(text: str, verdict: str) -> None:
    assert read_verdict(text) == verdict


def test_case_white_space_and_surroundings_do_not_matter() -> None:
    for text in CASES["first"]:
        assert read_verdict(text.upper()) == read_verdict(f"\n\t {text}  \r\n") == "first", text


def test_the_verdict_at_the_end_of_a_long_text_is_found() -> None:
    assert read_verdict("Answer 1 names a red circle. " * 5000 + "\nVerdict: [[2]]") == "second"


def test_the_two_answers_are_treated_alike() -> None:
    """Exchanging the names of the answers exchanges the verdict."""
    for text in ("[[1]]", "Verdict: 1", "response 1 is better", "1 wins", "Answer 1 is worse.", "I prefer response 1"):
        assert {read_verdict(text), read_verdict(text.replace("1", "2"))} == {"first", "second"}


@given(st.text() | st.text(alphabet="12[] :.ab\n'verdictbetteristhanotequally", max_size=80))
@example("[" * 5000 + "1" + "]" * 5000)
@example("response " * 3000)
@example("not " * 2000 + "better")
def test_it_never_raises(text: str) -> None:
    assert read_verdict(text) in ("first", "second", "tie", "unreadable")


@pytest.mark.parametrize(
    "text",
    [
        "The first man is better dressed.", "The image shows 1 cat on the best sofa.", "The second car is closer to the camera.",
        "The best view is of 2 boats.", "I would choose 1 cat.", "He wears a tie.", "The two men are of equal height.",
        "Both are wearing red.", "The result: 2 dogs on a sofa.", "My answer is a red bus.", "The winner: one horse.",
        "A woman prefers the second horse.", "The former church is more detailed than this.", "There are 2 better seats.",
        "The first thing one notices is that it is more accurate.", "The children cannot say who won the draw.",
        "Answer a child would like best.", "One of the players won.", "No difference in colour.",
        "There are 2 dogs, and the second is closer to the camera.", "Number 1 is the better runner in this race.",
        "He wins first place; 1 is painted on the better horse.", "Player 2 is stronger.",
        "My favorite is the second, with the better colours.",
        "The first one is better dressed than the second one.", "On the menu 1 is better value.",
        "The second is better parked than the first.",
    ],
)  # fmt: skip
def test_what_is_said_about_the_picture_is_no_verdict(text: str) -> None:
    assert read_verdict(text) == "unreadable"
