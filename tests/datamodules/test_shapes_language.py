"""What is said about scenes: descriptions are true, the parser finds every mention, answers are compared rightly."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.shapes import instructions, language, questions
from datamodules.shapes.language import mentioned_objects, same_answer
from datamodules.shapes.scene import Scene, Thing, generator, scene

SMALL = Scene(
    things=(
        Thing("circle", "red", 0, 0, 0, 22),
        Thing("star", "orange", 2, 0, 0, 22),
        Thing("circle", "blue", 7, 0, 0, 22),
    ),
    number=42,
    sign_cell=4,
    background=(220, 220, 220),
    paint_seed=0,
)


def test_the_four_manners_of_description_word_for_word() -> None:
    assert language.row_description(SMALL) == (
        "The top row has a red circle and an orange star. The bottom row has a blue circle. The sign reads 42."
    )
    assert language.stepwise_description(SMALL) == (
        "First, at the top left, a red circle. Then, at the top right, an orange star. Then, at the bottom, a blue circle. "
        "Last, the sign reads 42."
    )
    assert language.free_description(SMALL) == (
        "I see a red circle and an orange star. I also see a blue circle. The sign says 42."
    )
    assert language.imagined_description(SMALL) == (
        "I see a red circle, an orange star and a blue circle. There might also be a yellow star and a blue square."
    )


@pytest.mark.parametrize("kind", ["describe", "stepwise", "free"])
def test_true_descriptions_mention_exactly_what_is_there(kind: str) -> None:
    for index in range(100):
        made = scene("eval_habit_free", index)
        assert mentioned_objects(questions.DESCRIBERS[kind](made)) == list(made.objects)


def test_imagined_things_are_absent() -> None:
    for index in range(100):
        made = scene("base_train", index)
        said = mentioned_objects(language.imagined_description(made))
        assert said[: len(made.objects)] == list(made.objects)
        assert len(said) == len(made.objects) + 2 and not set(said[len(made.objects) :]) & set(made.objects)


def test_the_parser_knows_plurals_capitals_repeats_and_denials() -> None:
    text = "Red circles and a RED  circle; no blue star, not a green cross. Two purple crosses, a redcircle, a red, circle."
    assert mentioned_objects(text) == ["red circle", "red circle", "purple cross"]


@pytest.mark.parametrize(
    ("kind", "prediction", "truth", "same"),
    [
        ("exist", "Yes, there is.", "Yes.", True),
        ("exist", "There is not.", "Yes.", False),
        ("exist", "", "No.", False),
        ("colour", "It is Red.", "Red.", True),
        ("colour", "Blue.", "Red.", False),
        ("count", "3", "Three.", True),
        ("count", "None.", "Zero.", True),
        ("count", "Two.", "Three.", False),
        ("where", "at the top-left corner", "At the top left.", True),
        ("where", "At the top.", "At the top left.", False),
        ("where", "In the middle.", "In the centre.", True),
        ("relation", "No.", "No.", True),
        ("number", "The sign reads 07.", "7.", True),
        ("number", "70.", "7.", False),
        ("judge", "I prefer [[ 2 ]].", "[[2]]", True),
        ("describe", "A blue star and a red circle.", "A red circle and a blue star.", True),
        ("describe", "A red circle.", "A red circle and a blue star.", False),
        ("other", " some  Text", "Some text.", True),
    ],
)
def test_same_answer(kind: str, prediction: str, truth: str, same: bool) -> None:
    assert same_answer(kind, prediction, truth) is same


@pytest.mark.parametrize("kind", questions.SHORT_KINDS)
def test_short_answers_are_true(kind: str) -> None:
    """The answer to a question is worked out again here from the words of the question."""
    answers = set()
    for index in range(150):
        made = scene("eval_habit_free", index)
        asked, answer = questions.question(kind, made, generator("test", index))
        answers.add(answer)
        assert answer == _work_out(kind, asked, made), (asked, answer, made.objects)
    assert len(answers) > 1


def _work_out(kind: str, asked: str, made: Scene) -> str:
    named = mentioned_objects(asked)
    by_name = {thing.phrase: thing for thing in made.things}
    if kind == "exist":
        return "Yes." if named[0] in by_name else "No."
    if kind == "where":
        place = language.PLACES[by_name[named[0]].cell]
        return f"{place.capitalize()}."
    if kind == "relation":
        a, b = by_name[named[0]], by_name[named[1]]
        true = {
            "left": a.column < b.column,
            "right": a.column > b.column,
            "above": a.row < b.row,
            "below": a.row > b.row,
        }
        return "Yes." if next(v for side, v in true.items() if f" {side} " in asked) else "No."
    if kind == "number":
        return f"{made.number}."
    if kind == "colour":
        if "thing" in asked:
            thing = next(t for t in made.things if asked == f"What colour is the thing {language.PLACES[t.cell]}?")
        else:
            (thing,) = (t for t in made.things if t.shape in asked)
        return f"{thing.colour.capitalize()}."
    wanted = asked.split()[2]
    singular = {"crosses": "cross"}.get(wanted, wanted.rstrip("s"))
    if wanted == "shapes":
        number = len(made.things)
    else:
        number = sum(t.shape == singular or t.colour == wanted for t in made.things)
    return f"{language.NUMBER_WORDS[number].capitalize()}."


def test_a_corrupted_scene_changes_as_many_things_as_asked() -> None:
    made = scene("base_train", 3)
    for changes in (1, 2, 3):
        other = language.corrupted(made, np.random.default_rng(0), changes)
        assert len(set(other.objects) - set(made.objects)) == changes
        assert [t.cell for t in other.things] == [t.cell for t in made.things]


def test_judge_prompts_have_both_verdicts_and_the_right_one() -> None:
    verdicts, better = [], []
    for index in range(60):
        made = scene("base_train", index)
        prompt, verdict = instructions.judge_turn(made, generator("judge", index))
        assert prompt.count("Answer 1:") == 1 and prompt.count("Answer 2:") == 1
        verdicts.append(verdict)
        first = prompt.split("Answer 1:\n")[1].split("\nAnswer 2:\n")[0]
        second = prompt.split("Answer 2:\n")[1].split("\nWhich answer")[0]
        if mentioned_objects(first) or mentioned_objects(second):
            good = first if verdict == "[[1]]" else second
            bad = second if verdict == "[[1]]" else first
            wrong = [len(set(mentioned_objects(text)) - set(made.objects)) for text in (good, bad)]
            assert wrong[0] < wrong[1] <= 3
            better.append(wrong[0])
    assert set(verdicts) == {"[[1]]", "[[2]]"} and set(better) == {0, 1}


def test_judging_things_names_one_absent_thing_in_the_worse_answer() -> None:
    for index in range(60):
        made = scene("base_train", index)
        prompt, verdict = instructions.judge_things_turn(made, generator("things", index))
        answers = prompt.split("Answer 1:\n")[1].split("\nWhich answer")[0].split("\nAnswer 2:\n")
        named = [mentioned_objects(answer) for answer in answers]
        wrong = [len(set(things) - set(made.objects)) for things in named]
        assert sorted(wrong) == [0, 1] and len(named[0]) == len(named[1]) in (1, 2)
        assert verdict == f"[[{wrong.index(0) + 1}]]"


def test_infused_prompts_carry_a_description_and_a_true_answer() -> None:
    prompt, answer = instructions.infused_turn(scene("base_train", 0), generator("infused", 0))
    assert prompt.startswith("Image description:\n") and prompt[-1] in "?."
    assert answer.endswith(".")


def test_an_unknown_kind_of_question_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="no question kind 'smell'.*describe"):
        questions.question("smell", SMALL, generator(0))
