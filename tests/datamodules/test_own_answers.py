"""Supervised data that the policy writes itself: descriptions before questions, its own good answers, shares of a source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from augment.view import build
from datamodules.own_answers import share_of
from datamodules.shapes.source import ShapesSource
from datamodules.supervised import SupervisedDataModule
from parallax.preference.infusion import Infusion
from parallax.preference.proposers import ByPrompt
from parallax.records import Sample, Turn
from parallax.records.images import FileImage
from tests import typed
from tests.parts import part

LOADER = {"batch_size": 4, "micro_batch_size": 4}
SOURCE = ShapesSource("base_train", 4, kinds=["colour", "number"])


def test_a_description_stands_before_the_first_question_and_targets_are_unchanged(policy: Any, tmp_path: Path) -> None:
    infusion = part(Infusion, ["Describe the image."], max_new_tokens=12)
    two_turns = Sample("two", "t", SOURCE[0].image, (*SOURCE[0].turns, Turn("And?", "Nothing.")))
    source = [*SOURCE, two_turns]
    module = SupervisedDataModule(source, infusion=infusion, cache_dir=tmp_path, trainer=typed.trainer(**LOADER))
    report = module.build_pairs(policy)
    assert (report.built, report.reused, report.kept) == (5, 0, 5)
    for sample, shown in zip(source, module.samples, strict=True):
        (described,) = policy.generate([infusion.request(sample, 0)])
        assert shown.question == f"Image description:\n{described.text}\n\n{sample.question}"
        assert [turn.answer for turn in shown.turns] == [turn.answer for turn in sample.turns]
        assert shown.turns[1:] == sample.turns[1:]
    again = SupervisedDataModule(source, infusion=infusion, cache_dir=tmp_path, trainer=typed.trainer(**LOADER))
    assert again.build_pairs(policy).reused == 5 and again.samples == module.samples


def test_own_answers_are_learned_token_by_token_under_the_neutral_prompt(policy: Any, tmp_path: Path) -> None:
    proposer = part(
        ByPrompt, ["Look closely."], ["Describe."], ["Imagine."], build({"name": "invert"}), max_new_tokens=12
    )
    module = SupervisedDataModule(SOURCE, proposer=proposer, cache_dir=tmp_path, trainer=typed.trainer(**LOADER))
    report = module.build_pairs(policy)
    assert (report.built, report.kept) == (4, 4)  # nothing is asked for the rejected side
    (batch,) = module.batches()
    for row, sample in enumerate(SOURCE):
        (answer,) = policy.generate([proposer.requests(sample, 0)[0].request])
        ids = batch.scoring.response_ids[row, 0][: batch.scoring.response_lengths[row, 0]]
        assert ids.tolist() == list(answer.token_ids)
        assert module.samples[row].question == "Describe."
    assert batch.lengths.tolist() == batch.scoring.response_lengths.tolist()


def test_images_that_cannot_be_described_are_set_aside(policy: Any, tmp_path: Path) -> None:
    lost = Sample("lost", "t", FileImage(str(tmp_path), "none.png"), (Turn("What?", "A."),))
    module = SupervisedDataModule(
        [SOURCE[0], lost],
        infusion=part(Infusion, ["Describe."], max_new_tokens=4),
        cache_dir=tmp_path / "cache",
        trainer=typed.trainer(**LOADER),
    )
    report = module.build_pairs(policy)
    assert (report.kept, report.skipped) == (1, {"bad_image": 1})


def test_a_share_hangs_on_the_samples_not_on_their_order() -> None:
    samples = list(ShapesSource("base_train", 50))
    tenth = share_of(samples, 0.1, 0)
    assert len(tenth) == 5 and tenth == [sample for sample in samples if sample in tenth]
    assert {s.id for s in share_of(samples[::-1], 0.1, 0)} == {s.id for s in tenth}
    assert {s.id for s in tenth} < {s.id for s in share_of(samples, 0.2, 0)}  # a larger share holds the smaller one
    assert share_of(samples, 0.1, 1) != tenth
    assert share_of(samples, 1, 0) == samples and len(share_of(samples[:3], 0.02, 0)) == 1


def test_writing_needs_a_place_to_keep_it() -> None:
    with pytest.raises(ValueError, match="needs a cache_dir"):
        SupervisedDataModule(SOURCE, infusion=part(Infusion, ["Describe."]))
