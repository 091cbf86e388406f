"""STIC's proposer: who is asked what, how often, and what the pair is trained on."""

from __future__ import annotations

import pytest

from augment.view import build
from datamodules.build import as_trained
from datamodules.shapes.source import ShapesSource
from parallax.preference.proposer import PlannedProposer
from parallax.preference.proposers import ByPrompt, ByView
from parallax.records import ViewSpec
from tests.parts import part

SAMPLES = list(ShapesSource("pairs_habit_free", 400))
POOLS = {"good": ["careful"], "neutral": ["plain 1", "plain 2"], "bad": ["imagine 1", "imagine 2", "imagine 3"]}


def proposer(**changes: object) -> ByPrompt:
    return part(ByPrompt, **{**POOLS, "view": build({"name": "stic_corruption"}), **changes})  # type: ignore[arg-type]


def test_a_pair_is_a_careful_answer_against_a_bad_prompt_or_a_bad_image() -> None:
    kinds = []
    for sample in SAMPLES:
        chosen, rejected = proposer().requests(sample, 0)
        assert (chosen.role, chosen.request.prompt, chosen.request.view) == ("chosen", "careful", ViewSpec())
        neutral = proposer().trained_question(sample, 0)
        assert neutral in POOLS["neutral"]
        if rejected.request.prompt in POOLS["bad"]:
            assert rejected.request.view == ViewSpec()
            kinds.append("bad prompt")
        else:
            assert rejected.request.prompt == neutral  # the corrupted image is asked what is trained on
            kinds.append(rejected.request.view.name)
    shares = {kind: kinds.count(kind) / len(kinds) for kind in kinds}
    assert shares["bad prompt"] == pytest.approx(0.5, abs=0.08)
    assert shares["low_resolution"] == pytest.approx(0.25, abs=0.07)
    assert shares["stic_jitter"] == pytest.approx(0.25, abs=0.07)


def test_answers_are_sampled_at_a_low_temperature_with_seeds_of_their_own() -> None:
    decodings = [ask.request.decoding for sample in SAMPLES[:20] for ask in proposer().requests(sample, 0)]
    assert {decoding.temperature for decoding in decodings} == {0.2}
    assert len({decoding.seed for decoding in decodings}) == 40


def test_draws_belong_to_the_sample_and_the_runs_seed() -> None:
    assert proposer().requests(SAMPLES[3], 7) == proposer().requests(SAMPLES[3], 7)
    assert [proposer().requests(s, 0)[1] for s in SAMPLES[:9]] != [proposer().requests(s, 1)[1] for s in SAMPLES[:9]]
    assert isinstance(proposer(), PlannedProposer)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 400)])
def test_the_share_of_bad_prompts_may_be_all_or_none(share: float, expected: int) -> None:
    asked = [proposer(bad_share=share).requests(sample, 0)[1].request.prompt for sample in SAMPLES]
    assert sum(prompt in POOLS["bad"] for prompt in asked) == expected


def test_the_pair_is_trained_on_the_neutral_prompt_and_other_proposers_keep_the_samples_own() -> None:
    sample = SAMPLES[0]
    trained = as_trained(proposer(), sample, 0)
    assert trained.question == proposer().trained_question(sample, 0) and trained.answer == sample.answer
    assert as_trained(part(ByView, build({"name": "invert"})), sample, 0) is sample


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="bad_share=1.5 is not allowed"):
        proposer(bad_share=1.5)
    with pytest.raises(ValueError, match="pool 'bad'"):
        proposer(bad=[])
