"""What an objective looks at beside the pair's own answers: which picture, and which partner."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from PIL import Image

from augment.diffusion import Diffusion
from augment.occlusion import Black, Crop
from parallax.preference.looks import Look, groups_of, partners
from parallax.records import PreferencePair, Response, fingerprint
from tests.parts import part


@dataclass(frozen=True)
class Flat:
    """A picture of one colour."""

    colour: int

    def load(self) -> Image.Image:
        return Image.new("RGB", (8, 8), (self.colour, 0, 0))

    def digest(self) -> str:
        return fingerprint(self.colour)

    def size(self) -> tuple[int, int]:
        return 8, 8

    def describe(self) -> str:
        return f"colour {self.colour}"


def pair(
    number: int, question: str = "Describe it.", answer: str | None = None, colour: int | None = None
) -> PreferencePair:
    image = Flat(number if colour is None else colour)
    chosen = Response(answer if answer is not None else f"Answer {number}.")
    return PreferencePair(f"sample-{number}", "test", image, question, chosen, (Response("No."),))


def test_looks_at_the_same_picture_share_a_prompt() -> None:
    view = part(Crop)
    one, two = Look("chosen", "view", view), Look("rejected", "view", view)
    other = Look("chosen", "view", Diffusion(noise_steps=500))
    assert groups_of([one, two, other]) == [(one, two), (other,)]
    assert groups_of([]) == []


def test_a_view_belongs_to_a_look_at_a_view() -> None:
    for wrong in ({"image": "view"}, {"image": "partner", "view": Black()}):
        with pytest.raises(ValueError, match="a view belongs to image='view'"):
            Look(**wrong)  # type: ignore[arg-type]


def test_a_view_is_drawn_from_the_samples_own_seed() -> None:
    look = Look("chosen", "view", part(Crop))
    assert look.spec(3, "a") == look.spec(3, "a")
    assert len({look.spec(3, "a").seed, look.spec(3, "b").seed, look.spec(4, "a").seed}) == 3
    assert Look("chosen", "view", part(Crop), purpose="other").spec(3, "a") != look.spec(3, "a")


def test_a_partner_has_another_image_and_does_not_depend_on_the_order() -> None:
    pairs = [pair(number, colour=number // 2) for number in range(12)]  # two samples on each image
    found = partners(pairs, [each.id for each in pairs], 5, same_question=True)
    assert all(
        other is not None and pairs[other].image.digest() != pairs[at].image.digest() for at, other in enumerate(found)
    )
    by_name = {pairs[at].sample_id: pairs[other].sample_id for at, other in enumerate(found) if other is not None}
    random.Random(0).shuffle(pairs)
    again = partners(pairs, [each.id for each in pairs], 5, same_question=True)
    assert by_name == {
        pairs[at].sample_id: pairs[other].sample_id for at, other in enumerate(again) if other is not None
    }
    assert again != partners(pairs, [each.id for each in pairs], 6, same_question=True)  # another seed, other partners


def test_a_partner_whose_answer_counts_shares_the_question_and_says_something_else() -> None:
    pairs = [pair(0, answer="Same."), pair(1, answer="Same."), pair(2), pair(3, question="What?")]
    ids = [each.id for each in pairs]
    strict = partners(pairs, ids, 0, same_question=True)
    assert strict[0] == strict[1] == 2 and strict[2] in (0, 1) and strict[3] is None
    assert None not in partners(pairs, ids, 0, same_question=False)  # any other image will do


def test_pairs_about_one_image_have_no_partners() -> None:
    pairs = [pair(number, colour=7) for number in range(3)]
    assert partners(pairs, [each.id for each in pairs], 0, same_question=False) == [None, None, None]
