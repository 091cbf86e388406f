"""Questions that the policy writes itself: how they are read, kept or dropped, and what becomes of the samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from datamodules.shapes.source import ShapesSource
from parallax.preference.asker import GivenQuestions, SelfAsked
from parallax.preference.proposer import Ask
from parallax.records import Candidate, Dropped, Sample
from parallax.records.pair_store import images_of
from tests.parts import part

SAMPLES = list(ShapesSource("pairs_habit_free", 4))
SAID = {
    SAMPLES[0].id: "Question: How many stars are there? It is easy.",
    SAMPLES[1].id: "There is a star.",
    SAMPLES[2].id: "What is her name?",
    SAMPLES[3].id: "What is it? Who drew the ornament?",
}


class Policy:
    """Says what it is told to about each sample; repeats a question it is to check, but for "What is it?"."""

    def __init__(self) -> None:
        self.calls: list[list[Ask]] = []

    def __call__(self, asks: Sequence[Ask]) -> list[Candidate]:
        self.calls.append(list(asks))
        return [Candidate("", a.request.sample_id, a.role, a.index, (), self.reply(a), True, None) for a in asks]  # type: ignore[arg-type]

    def reply(self, ask: Ask) -> str:
        if not ask.request.prompt.startswith("CHECK "):
            return SAID[ask.request.sample_id]
        return "The picture does not say." if "What is it?" in ask.request.prompt else ask.request.prompt[6:]


def asked(asker: SelfAsked, samples: Sequence[Sample] = SAMPLES) -> tuple[list[list[str]], list[str], Policy]:
    policy = Policy()
    made = asker.asked(samples, seed=0, generate=policy)
    questions = [[sample.question for sample in one] for one in made if not isinstance(one, Dropped)]
    return questions, [one.reason for one in made if isinstance(one, Dropped)], policy


def test_sentences_that_ask_become_samples_and_the_others_have_their_reason() -> None:
    questions, reasons, policy = asked(part(SelfAsked, ["Ask."], unwanted=["name"]))
    assert questions == [["How many stars are there?"], ["What is it?", "Who drew the ornament?"]]
    assert reasons == ["no_question", "unwanted_question"]
    assert [len(call) for call in policy.calls] == [4] and all(a.request.decoding.greedy for a in policy.calls[0])
    assert [a.request.image for a in policy.calls[0]] == [sample.image for sample in SAMPLES]


def test_a_question_that_fails_its_check_is_dropped_and_the_check_sees_the_image() -> None:
    questions, reasons, policy = asked(part(SelfAsked, ["Ask."], "CHECK {question}", most=1, unwanted=["name"]))
    assert questions == [["How many stars are there?"]] and reasons[-1] == "unanswerable"
    assert [ask.request.image for ask in policy.calls[1]] == [SAMPLES[0].image, SAMPLES[3].image]
    with pytest.raises(ValueError, match=r"asker.check='Ask again' lacks {question}"):
        part(SelfAsked, ["Ask."], "Ask again", unwanted=["name"])


def test_a_request_for_a_description_goes_with_each_question_and_orders_stand_behind_them() -> None:
    asker = part(
        SelfAsked, ["Ask."], describe=["Describe it."], briefly="Be brief.", in_a_word="In a word.", unwanted=["name"]
    )
    (made,) = (one for one in asker.asked(SAMPLES[3:], seed=0, generate=Policy()) if not isinstance(one, Dropped))
    assert [(sample.kind, sample.question) for sample in made] == [
        ("des", "Describe it. Be brief."),
        ("gen", "What is it? In a word."),
        ("gen", "Who drew the ornament? In a word."),
    ]
    assert len({sample.id for sample in made}) == 3 and {sample.answer for sample in made} == {None}
    found = images_of(SAMPLES)  # by the images of the samples that they were written for
    assert all(found(sample.id, sample.image.describe()) is SAMPLES[3].image for sample in made)


def test_things_that_are_named_become_questions_where_no_question_can_be_written() -> None:
    named = replace(SAMPLES[0], id="named")
    SAID["named"] = "A red star. A red star and a Blue cross."
    questions, _, _ = asked(
        part(
            SelfAsked,
            ["Say."],
            pattern="(red|blue) (star|cross)",
            wordings=["Where is the {thing}?"],
            unwanted=["name"],
        ),
        [named],
    )
    assert questions == [["Where is the red star?", "Where is the blue cross?"]]
    with pytest.raises(ValueError, match=r"asker.wordings is empty"):
        part(SelfAsked, ["Say."], pattern="star", unwanted=["name"])


def test_questions_of_the_data_stay_as_they_are() -> None:
    given = GivenQuestions()
    assert (
        given.asked(SAMPLES, seed=0, generate=Policy()) == [[sample] for sample in SAMPLES] and given.settings() == {}
    )
