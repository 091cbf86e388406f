"""Supervised stages: dialogues as optimiser steps, only assistant tokens counted, samples without answers set aside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datamodules.shapes.source import ShapesSource
from datamodules.supervised import SupervisedDataModule
from parallax.records import Sample, Turn
from parallax.records.images import FileImage
from tests import typed

LOADER = {"batch_size": 4, "micro_batch_size": 3}


def test_only_answers_and_their_end_tokens_count(policy: Any) -> None:
    scene = ShapesSource("pairs_habit_free", 1)[0]
    sample = Sample("two turns", "test", scene.image, (Turn("What?", "A star."), Turn("Where?", "Top row.")))
    module = SupervisedDataModule([sample], trainer=typed.trainer(**LOADER))
    assert module.prepare_samples(policy) == 1
    (step,) = module.epoch_loader()
    (batch,) = step.micro_batches
    counted = batch.scoring.response_ids[batch.scoring.counted()]
    end = policy.encoder.end_token_ids[0]
    assert policy.encoder.tokenizer.decode(counted).replace(" ", "") == policy.encoder.tokenizer.decode(
        [*policy.encoder.tokenizer("A star.", add_special_tokens=False).input_ids, end,
         *policy.encoder.tokenizer("Top row.", add_special_tokens=False).input_ids, end]
    ).replace(" ", "")  # fmt: skip
    assert batch.lengths.tolist() == [[len(counted)]] and batch.reference_log_probs is None


def test_every_dialogue_comes_once_per_epoch_and_bad_ones_are_set_aside(policy: Any, tmp_path: Path) -> None:
    good = list(ShapesSource("pairs_habit_free", 9))
    bad = [
        Sample("silent", "test", good[0].image, (Turn("What?"),)),
        Sample("missing", "test", FileImage(str(tmp_path), "none.png"), (Turn("What?", "A"),)),
        Sample("long", "test", good[0].image, (Turn("What? " * 5000, "A"),)),
    ]
    module = SupervisedDataModule([*good, *bad], trainer=typed.trainer(**LOADER), skipped=tmp_path / "skipped.jsonl")
    report = module.build_pairs(policy)
    assert (report.samples, report.kept, report.skipped) == (12, 9, {"no_answer": 1, "bad_image": 1, "long_prompt": 1})
    assert module.steps_per_epoch() == 3
    ids = [name for step in module.epoch_loader(1) for batch in step.micro_batches for name in batch.pair_ids]
    assert sorted(ids) == sorted(sample.id for sample in good)
    whole = [name for batch in module.batches() for name in batch.pair_ids]
    assert sorted(whole) == sorted(sample.id for sample in good)


def test_nothing_to_learn_is_said(policy: Any) -> None:
    scene = ShapesSource("pairs_habit_free", 1)[0]
    silent = Sample("silent", "test", scene.image, (Turn("What?"),))
    with pytest.raises(ValueError, match="none of 1 samples can be learned from"):
        SupervisedDataModule([silent]).prepare_samples(policy)
    with pytest.raises(RuntimeError, match="prepare_samples"):
        SupervisedDataModule([silent]).epoch_loader()
