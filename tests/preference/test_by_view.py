"""SeVa's proposer: what it asks, and on what its asking depends."""

from __future__ import annotations

import pytest

from augment.view import build
from datamodules.shapes.source import ShapesSource
from parallax.preference.proposer import Ask, PlannedProposer
from parallax.preference.proposers import ByView, Given
from parallax.records import Candidate, ViewSpec
from tests.parts import part

SAMPLES = list(ShapesSource("pairs_habit_free", 3))


def noise(step: int, k: int = 1, **decoding: float) -> ByView:
    return part(ByView, build({"name": "diffusion", "noise_steps": step}), k, max_new_tokens=32, **decoding)  # type: ignore[arg-type]


def test_one_clean_request_and_k_corrupted_ones_all_greedy() -> None:
    clean, *corrupted = noise(500, 3).requests(SAMPLES[0], seed=1)
    assert (clean.role, clean.request.view, clean.request.prompt) == ("chosen", ViewSpec(), SAMPLES[0].question)
    assert [(ask.role, ask.index) for ask in corrupted] == [("rejected", k) for k in range(3)]
    assert len({ask.request.view.seed for ask in corrupted}) == 3
    assert all(ask.request.decoding.greedy and ask.request.decoding.seed == 0 for ask in (clean, *corrupted))


def test_the_clean_request_depends_neither_on_the_view_nor_on_the_seed() -> None:
    asked = [noise(step, k).requests(SAMPLES[0], seed)[0] for step, k, seed in ((500, 1, 0), (700, 4, 9))]
    assert asked[0] == asked[1]


def test_views_are_drawn_by_seed_and_sample_alone() -> None:
    one, again = (noise(500).requests(SAMPLES[0], 1)[1].request.view for _ in range(2))
    assert one == again and one.name == "diffusion" and one.params["noise_steps"] == 500
    assert noise(500).requests(SAMPLES[0], 2)[1].request.view.seed != one.seed
    assert noise(500).requests(SAMPLES[1], 1)[1].request.view.seed != one.seed
    assert noise(500, 4).requests(SAMPLES[0], 1)[1].request.view == one  # more negatives leave the first as it was


def test_sampled_decoding_has_a_seed_of_its_own_for_every_answer() -> None:
    asks = [ask for s in SAMPLES for ask in noise(500, 2, temperature=0.8, top_p=0.9).requests(s, 1)]
    assert len({ask.request.decoding.seed for ask in asks}) == 9
    assert {(a.request.decoding.temperature, a.request.decoding.top_p) for a in asks} == {(0.8, 0.9)}


def test_several_views_take_turns_and_a_mixture_is_drawn_per_answer() -> None:
    views = ["invert", {"name": "diffusion", "noise_steps": 300}]
    several = part(ByView, build({"name": "several", "views": views}), 4).requests(SAMPLES[0], 0)
    assert [ask.request.view.name for ask in several[1:]] == ["invert", "diffusion", "invert", "diffusion"]
    mixture = part(ByView, build({"name": "mixture", "views": views, "weights": [1, 1]}), 20).requests(SAMPLES[0], 0)
    assert {ask.request.view.name for ask in mixture[1:]} == {"invert", "diffusion"}


def test_answers_are_handed_back_to_their_samples() -> None:
    def generate(asks: list[Ask]) -> list[Candidate]:
        return [Candidate("", a.request.sample_id, a.role, a.index, (), "", True, None) for a in asks]  # type: ignore[arg-type]

    groups = noise(500, 2).propose(None, SAMPLES, seed=0, generate=generate)  # type: ignore[arg-type]
    assert [[c.sample_id for c in group] for group in groups] == [[s.id] * 3 for s in SAMPLES]
    assert isinstance(noise(500), PlannedProposer) and not isinstance(Given(), PlannedProposer)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="num_negatives=0 is not allowed"):
        noise(500, 0)
    with pytest.raises(ValueError, match="no ready-made pairs; use data=preference_file"):
        Given().propose(None, SAMPLES, seed=0, generate=lambda asks: [])
