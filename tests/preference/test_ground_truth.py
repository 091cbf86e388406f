"""Ground truth against own answers and against edited texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from datamodules.build import fit_for
from datamodules.shapes.hallucinate import hallucinated_description
from datamodules.shapes.source import ShapesSource
from parallax.models.policy import Policy
from parallax.preference.proposer import Ask
from parallax.preference.proposers import GroundTruth, GroundTruthAgainstEdited
from parallax.preference.proposers.edited import TextsFromFile
from parallax.records import Candidate, Sample, Turn
from parallax.records.skipped import SkippedLog
from tests.parts import part
from tests.typed import load_policy

SAMPLES = list(ShapesSource("pairs_habit_free", 3))
SILENT = Sample("silent", "test", SAMPLES[0].image, (Turn("What?"),))


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy({"path": "assets/tiny_llava"}, {"r": 4})


def own(asks: Sequence[Ask]) -> list[Candidate]:
    return [Candidate("k", a.request.sample_id, a.role, a.index, (1, 2), "own", True, None) for a in asks]  # type: ignore[arg-type]


def test_ground_truth_is_chosen_as_the_template_writes_an_answer(policy: Policy) -> None:
    groups = part(GroundTruth, max_new_tokens=8).propose(policy, SAMPLES, seed=0, generate=own)
    for sample, (chosen, rejected) in zip(SAMPLES, groups, strict=True):
        assert (chosen.role, chosen.text, chosen.finished) == ("chosen", sample.answer, True)
        assert chosen.token_ids == tuple(policy.encoder.chat.encode_response(sample.answer or ""))
        assert chosen.token_ids[-1] in policy.encoder.end_token_ids and chosen.spec.policy == "ground truth"
        assert (rejected.role, rejected.text) == ("rejected", "own")
    assert len({group[0].key for group in groups}) == 3


def test_own_answers_are_greedy_or_sampled_with_the_samples_own_seed() -> None:
    (greedy,) = part(GroundTruth).requests(SAMPLES[0], 0)
    assert greedy.request.decoding.greedy
    sampled = [a.request.decoding.seed for s in SAMPLES for a in part(GroundTruth, 2, temperature=1.0).requests(s, 0)]
    assert len(set(sampled)) == 6
    with pytest.raises(ValueError, match="all answers are the same"):
        part(GroundTruth, 2)


def test_samples_without_an_answer_are_set_aside_with_their_reason() -> None:
    for proposer in (part(GroundTruth), GroundTruthAgainstEdited(hallucinated_description)):
        skipped = SkippedLog(None, 1.0, 2)
        assert fit_for(proposer, [SAMPLES[0], SILENT], skipped) == [SAMPLES[0]]
        assert skipped.counts() == {"no_answer": 1}


def test_the_edited_text_is_rejected_and_fixed_by_seed_and_sample(policy: Policy) -> None:
    proposer = GroundTruthAgainstEdited(hallucinated_description)

    def texts(seed: int) -> list[str]:
        groups = proposer.propose(policy, SAMPLES, seed=seed, generate=own)
        assert [[c.role for c in group] for group in groups] == [["chosen", "rejected"]] * 3
        return [group[1].text for group in groups]

    assert texts(0) == texts(0) != texts(1)
    assert proposer.settings()["rewrite"] == "hallucinated_description"


def test_rewritten_texts_come_from_a_users_file(policy: Policy, tmp_path: Path) -> None:
    file = tmp_path / "rewritten.json"
    file.write_text(json.dumps({SAMPLES[0].id: "A dog."}))
    proposer = GroundTruthAgainstEdited(TextsFromFile(file))
    skipped = SkippedLog(None, 1.0, 3)
    kept = fit_for(proposer, SAMPLES, skipped)
    assert kept == SAMPLES[:1] and skipped.counts() == {"no_rewrite": 2}
    ((_, rejected),) = proposer.propose(policy, kept, seed=0, generate=own)
    assert rejected.text == "A dog."
    file.write_text("[]")
    with pytest.raises(ValueError, match="one JSON object"):
        TextsFromFile(file)
    with pytest.raises(FileNotFoundError, match="maps sample ids to texts"):
        TextsFromFile(tmp_path / "none.json")
