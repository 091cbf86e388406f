"""A description before a question: the exact text, and who asks for the description."""

from __future__ import annotations

import pytest

from datamodules.shapes.source import ShapesSource
from parallax.preference.infusion import Describe, Infusion, infuse
from parallax.records import Decoding, ViewSpec
from tests.parts import part

TEMPLATE = "Image description:\n{description}\n\n{question}"
SAMPLE = ShapesSource("pairs_habit_free", 1)[0]


def test_the_prompt_is_label_description_empty_line_and_question() -> None:
    assert infuse(TEMPLATE, " A red circle. \n", "What colour?") == "Image description:\nA red circle.\n\nWhat colour?"


def test_braces_in_texts_stay_what_they_are() -> None:
    assert infuse("{question} | {description}", "{question}", "{description} {x}") == "{description} {x} | {question}"


@pytest.mark.parametrize("template", ["{description}", "{question}", "{description} {question} {question}", "x"])
def test_a_template_without_a_place_for_both_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="each once"):
        part(Infusion, ["Describe."], template)
    with pytest.raises(ValueError, match="describe_template"):
        Describe("Describe.", 5, template)


def test_descriptions_are_sampled_with_the_samples_own_seed_or_greedy() -> None:
    request = part(Infusion, ["a", "b"], max_new_tokens=9, temperature=0.2).request(SAMPLE, 0)
    assert request.prompt in ("a", "b") and request.view == ViewSpec()
    assert (request.decoding.temperature, request.decoding.max_new_tokens) == (0.2, 9)
    assert request == part(Infusion, ["a", "b"], max_new_tokens=9, temperature=0.2).request(SAMPLE, 0)
    assert part(Infusion, "a", max_new_tokens=11, temperature=0.0).request(SAMPLE, 0).decoding == Decoding(11)
    assert Describe("c", 7, TEMPLATE).request(SAMPLE, ViewSpec()).decoding == Decoding(7)
