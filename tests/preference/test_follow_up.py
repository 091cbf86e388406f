"""Proposers that ask again with an answer in hand: what they ask, and what they take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from augment.view import build
from datamodules.shapes.source import ShapesSource
from parallax.models.policy import Policy
from parallax.preference.proposer import Ask
from parallax.preference.proposers.by_view import ByView
from parallax.preference.proposers.improved import Improved
from parallax.preference.proposers.joined import Joined
from parallax.preference.proposers.reworked import Reworked, beginning
from parallax.preference.proposers.summarised import Summarised, shared_sentences
from parallax.records import Candidate, GenerationSpec, ViewSpec
from tests.parts import part

SAMPLES = list(ShapesSource("pairs_habit_free", 3))
NOTHING: Policy = None  # type: ignore[assignment]
NOISE = build({"name": "diffusion", "noise_steps": 600})
NO_IMAGE = build("no_image")


class Says:
    """Answers by a rule on the request, and remembers each call."""

    def __init__(self, rule: Callable[[Ask], str]) -> None:
        self.rule = rule
        self.calls: list[list[Ask]] = []

    def __call__(self, asks: Sequence[Ask]) -> list[Candidate]:
        self.calls.append(list(asks))
        return [
            Candidate(
                "k", a.request.sample_id, a.role, a.index, (1,), self.rule(a), True,
                GenerationSpec("p", "float32", "x", "t", "i", a.request.prompt, a.request.view, a.request.decoding),
            )
            for a in asks
        ]  # fmt: skip


def test_half_an_answer_goes_on_without_the_image_each_with_a_seed_of_its_own() -> None:
    says = Says(lambda ask: f"{ask.request.answer_start} something" if ask.request.answer_start else "a b c d e")
    groups = part(
        Reworked, NO_IMAGE, num_negatives=2, keep=0.5, prompt="{question}", of="own", temperature=0.7, top_p=1.0
    ).propose(NOTHING, SAMPLES, seed=1, generate=says)
    assert [[(c.role, c.index, c.text) for c in group] for group in groups] == [
        [("chosen", 0, "a b c d e"), ("rejected", 0, "a b something"), ("rejected", 1, "a b something")]
    ] * 3
    first, then = says.calls
    assert all(ask.request.view == ViewSpec() and ask.request.decoding.greedy for ask in first)
    assert {ask.request.view.name for ask in then} == {"no_image"} and {a.request.answer_start for a in then} == {"a b"}
    assert len({ask.request.decoding.seed for ask in then}) == 6
    assert [ask.request.prompt for ask in first] == [s.question for s in SAMPLES]
    assert [beginning(text, 0.5) for text in ("one", "", "a  b c", "no space. here")] == ["", "", "a", "no"]


def test_a_rewriting_is_asked_with_the_answer_and_the_datas_own_answer_can_be_rewritten() -> None:
    says = Says(lambda ask: "{answer} is a word")
    rewriting = part(Reworked, NO_IMAGE, "Q {question} A {answer}", temperature=0.8, of="own", top_p=1.0)
    ((chosen, rejected),) = rewriting.propose(NOTHING, SAMPLES[:1], seed=0, generate=says)
    assert says.calls[1][0].request.prompt == f"Q {SAMPLES[0].question} A {{answer}} is a word"
    assert (chosen.role, rejected.role, says.calls[1][0].request.answer_start) == ("chosen", "rejected", "")
    given = part(Reworked, NO_IMAGE, "{answer}", of="ground_truth", temperature=0.7, top_p=1.0)
    assert given.requests(SAMPLES[0], 0) == [] and given.unfit(SAMPLES[0]) is None
    assert given.follow_ups(SAMPLES[0], [], 0)[0].request.prompt == SAMPLES[0].answer
    silent = replace(SAMPLES[0], turns=(replace(SAMPLES[0].turns[0], answer=None),))
    assert given.unfit(silent) is not None and rewriting.unfit(silent) is None


def test_a_summary_of_several_views_is_chosen_against_the_clean_answer_or_a_corrupted_one() -> None:
    says = Says(lambda ask: f"{ask.role} {ask.index}." if ask.role != "chosen" else "All of it.")
    weak = build({"name": "several", "views": ["identity", "invert"]})
    plain = part(Summarised, weak, "{question}\n{answers}", 2, agree=0.5)
    ((chosen, rejected),) = plain.propose(NOTHING, SAMPLES[:1], seed=0, generate=says)
    assert [ask.request.view.name for ask in says.calls[0]] == ["identity", "identity", "invert"]
    assert says.calls[1][0].request.prompt == f"{SAMPLES[0].question}\nclean 0.\nview 0.\nview 1."
    assert (chosen.text, rejected.role, rejected.text) == ("All of it.", "rejected", "clean 0.")
    against = part(
        Summarised, weak, "{question}{answers}", 1, against=NOISE, num_negatives=2, max_length_ratio=1.0, agree=0.5
    )
    (group,) = against.propose(NOTHING, SAMPLES[:1], seed=0, generate=says)
    assert [(c.role, c.text) for c in group] == [  # three words for two: the summary is not used
        ("chosen", "clean 0."), ("rejected", "rejected 0."), ("rejected", "rejected 1."),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="lacks {answers}"):
        part(Summarised, weak, "{question}", num_views=4, agree=0.5)
    with pytest.raises(ValueError, match="name a view in `against`"):
        part(Summarised, weak, None, num_negatives=2, num_views=4, agree=0.5)
    assert shared_sentences(["One. Two.", "Two. Three.", "Three. Two. Two."], 0.6) == "Two. Three."


def test_a_clean_answer_is_improved_for_the_kinds_that_have_a_prompt() -> None:
    def rule(ask: Ask) -> str:
        if ask.role == "description":
            return "A scene."
        return "Answer: better" if "Improve" in ask.request.prompt else "old"

    inner = part(ByView, NOISE)
    samples = [replace(SAMPLES[0], kind="gen"), replace(SAMPLES[1], kind="des")]
    text = "Improve {description}|{question}|{answer}"
    for label, expected in (("Answer:", "better"), ("Reply:", "old")):
        says = Says(rule)
        improved = part(Improved, inner, ["Describe."], {"gen": text}, label=label)
        if label == "Reply:":
            groups = improved.propose(NOTHING, samples, seed=0, generate=says)
            assert [c.text for c in groups[0]] == [expected, "old"]
            assert says.calls[1][0].request.prompt == f"Improve A scene.|{samples[0].question}|old"
            assert len(says.calls[1]) == 1 and [c.role for c in groups[1]] == ["chosen", "rejected"]
    (group,) = part(Improved, inner, ["Describe."], text).propose(NOTHING, samples[:1], seed=0, generate=Says(rule))
    assert [c.text for c in group] == ["Answer: better", "old"]
    off = Says(rule)
    part(Improved, inner, ["Describe."], None).propose(NOTHING, samples, seed=0, generate=off)
    assert [len(call) for call in off.calls] == [4, 0]
    with pytest.raises(ValueError, match="lacks {question}"):
        part(Improved, inner, ["Describe."], "Improve it")


def test_joined_proposers_bring_one_chosen_answer_and_the_rejected_ones_of_all() -> None:
    both = Joined([part(ByView, NOISE, 2), part(Reworked, NO_IMAGE, "{answer}", of="own", temperature=0.7, top_p=1.0)])
    (group,) = both.propose(NOTHING, SAMPLES[:1], seed=0, generate=Says(lambda ask: ask.request.prompt))
    assert [(c.role, c.index) for c in group] == [("chosen", 0), ("rejected", 0), ("rejected", 1), ("rejected", 2)]
    assert both.view is NOISE and [part["proposer"] for part in both.settings()["parts"]] == ["ByView", "Reworked"]
