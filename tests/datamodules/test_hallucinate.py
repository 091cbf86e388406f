"""Hallucinations put into true descriptions: the same sentences, one or two objects that are not there."""

from __future__ import annotations

import pytest

from datamodules.shapes.hallucinate import exchanged, hallucinated_description
from datamodules.shapes.language import mentioned_objects
from datamodules.shapes.source import ShapesSource
from parallax.records import Sample, Turn

TEXT = "The top row has a red circle and an orange star. An orange star it is; the sign reads 4."


@pytest.mark.parametrize(
    ("instead", "expected"),
    [
        ({}, TEXT),
        ({"red circle": "orange cross"}, TEXT.replace("a red circle", "an orange cross")),
        ({"orange star": "blue star"}, TEXT.replace("an orange star", "a blue star").replace("An orange", "A blue")),
        (
            {"red circle": "orange star", "orange star": "red circle"},  # both at once, not one after the other
            "The top row has an orange star and a red circle. A red circle it is; the sign reads 4.",
        ),
        ({"red": "blue"}, TEXT.replace("a red circle", "a blue circle")),
    ],
)
def test_exchanging_by_hand(instead: dict[str, str], expected: str) -> None:
    assert exchanged(TEXT, instead) == expected


def test_one_or_two_objects_are_exchanged_for_absent_ones() -> None:
    changes = []
    for number, sample in enumerate(ShapesSource("pairs_habit_free", 60)):
        text = hallucinated_description(sample, number)
        assert text is not None and text != sample.answer
        true, told = mentioned_objects(sample.answer or ""), mentioned_objects(text)
        assert len(told) == len(true)
        changes.append(sum(phrase not in (sample.objects or ()) for phrase in told))
        assert hallucinated_description(sample, number) == text
    assert set(changes) == {1, 2}


def test_what_is_no_description_of_a_known_scene_has_no_hallucination() -> None:
    scene = ShapesSource("pairs_habit_free", 1)[0]
    assert hallucinated_description(Sample("x", "t", scene.image, scene.turns), 0) is None
    bare = Sample("x", "t", scene.image, (Turn("How many?", "Three."),), attributes=scene.attributes)
    assert hallucinated_description(bare, 0) is None
