"""SIMA's proposer: what it asks, and on what its asking depends."""

from __future__ import annotations

import pytest

from augment.view import build
from datamodules.shapes.source import ShapesSource
from parallax.preference.proposer import PlannedProposer
from parallax.preference.proposers import ByView, Sampled
from parallax.records import ViewSpec
from tests.parts import part

SAMPLES = list(ShapesSource("pairs_habit_free", 3))


def test_one_greedy_request_and_n_sampled_ones_on_the_clean_image() -> None:
    greedy, *sampled = Sampled(3, max_new_tokens=32, temperature=0.8, top_p=0.9).requests(SAMPLES[0], seed=1)
    assert greedy.role == "greedy" and greedy.request.decoding.greedy
    assert [(ask.role, ask.index) for ask in sampled] == [("sample", k) for k in range(3)]
    assert {(a.request.decoding.temperature, a.request.decoding.top_p) for a in sampled} == {(0.8, 0.9)}
    assert all(ask.request.view == ViewSpec() for ask in (greedy, *sampled))
    assert isinstance(part(Sampled, temperature=0.8, top_p=0.9), PlannedProposer)


def test_every_sample_has_a_seed_of_its_own_that_more_samples_leave_as_it_was() -> None:
    asks = [ask for sample in SAMPLES for ask in part(Sampled, 2, temperature=0.8, top_p=0.9).requests(sample, 1)[1:]]
    assert len({ask.request.decoding.seed for ask in asks}) == 6
    assert part(Sampled, 4, temperature=0.8, top_p=0.9).requests(SAMPLES[0], 1)[:3] == part(
        Sampled, 2, temperature=0.8, top_p=0.9
    ).requests(SAMPLES[0], 1)
    assert (
        part(Sampled, 2, temperature=0.8, top_p=0.9).requests(SAMPLES[0], 2)[1]
        != part(Sampled, 2, temperature=0.8, top_p=0.9).requests(SAMPLES[0], 1)[1]
    )


def test_the_greedy_request_is_the_one_that_seva_asks_on_the_clean_image() -> None:
    seva = ByView(build({"name": "diffusion", "noise_steps": 500}), max_new_tokens=32).requests(SAMPLES[0], 9)[0]
    assert (
        part(Sampled, max_new_tokens=32, temperature=0.8, top_p=0.9).requests(SAMPLES[0], 1)[0].request == seva.request
    )


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="num_samples=0 is not allowed"):
        part(Sampled, 0, temperature=0.8, top_p=0.9)
    with pytest.raises(ValueError, match="temperature=0.0 is not allowed"):
        part(Sampled, temperature=0.0, top_p=0.9)
