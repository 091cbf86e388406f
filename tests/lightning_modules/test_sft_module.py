"""`SFTModule` on dialogues of several turns."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lightning_modules.sft import SFTModule
from parallax.models.batch import PairBatch, StepBatch
from parallax.models.policy import Policy
from tests import typed
from tests.lightning_modules.tiny_steps import ANSWERS, NewPolicy, fit, picture, trained_state

OPTIM = typed.optim(lr=5e-3, scheduler="constant")


def dialogue(place: int) -> tuple[Image.Image, list[tuple[str, str]]]:
    """One to three turns."""
    turns = [(f"Question {k}?", ANSWERS[(place + k) % len(ANSWERS)]) for k in range(1 + place % 3)]
    return picture(place), turns


def batch_of(policy: Policy, places: Sequence[int]) -> PairBatch:
    scoring = policy.encoder.collate_dialogues([policy.encoder.encode_dialogue(*dialogue(place)) for place in places])
    return PairBatch(scoring, None, [f"sample-{place}" for place in places], scoring.counted().sum(-1))


def step_of(policy: Policy, places: Sequence[int], micro: int) -> StepBatch:
    cuts = [places[start : start + micro] for start in range(0, len(places), micro)]
    return StepBatch([batch_of(policy, cut) for cut in cuts], len(places))


def test_the_loss_is_the_cross_entropy_over_all_assistant_tokens_as_transformers_computes_it(
    new_policy: NewPolicy, tmp_path: Path
) -> None:
    policy = new_policy()
    places = [0, 1, 2, 5]
    total, tokens = 0.0, 0
    with torch.no_grad():
        for place in places:
            encoded = policy.encoder.encode_dialogue(*dialogue(place))
            labels = encoded.input_ids.masked_fill(~encoded.labels_mask, -100)[None]
            count = int(encoded.labels_mask.sum())
            output = policy.model(input_ids=encoded.input_ids[None], labels=labels, **encoded.vision)
            total, tokens = total + output.loss.item() * count, tokens + count
    (metrics,) = fit(SFTModule(policy, OPTIM, total_steps=1), [step_of(policy, places, 3)], tmp_path)
    assert metrics["train/loss"] == pytest.approx(total / tokens, rel=1e-5)
    assert metrics["train/tokens"] == tokens


def test_micro_batching_does_not_change_the_trajectory(new_policy: NewPolicy, tmp_path: Path) -> None:
    results: list[tuple[Any, Any]] = []
    for micro in (6, 4, 1):
        policy = new_policy(dtype="float64")  # Adam turns rounding noise of tiny gradients into steps
        steps = [step_of(policy, range(start, start + 6), micro) for start in (0, 1)]
        metrics = fit(SFTModule(policy, replace(OPTIM, lr=1e-3), total_steps=2), steps, tmp_path, precision="64-true")
        results.append((metrics, trained_state(policy)))
    (whole, weights), *others = results
    for metrics, other in others:
        for expected, got in zip(whole, metrics, strict=True):
            assert got == pytest.approx(expected, rel=1e-7, abs=1e-9)
        assert all(torch.allclose(value, other[name], atol=1e-9) for name, value in weights.items())


def test_answers_are_learned(new_policy: NewPolicy, tmp_path: Path) -> None:
    policy = new_policy()
    metrics = fit(SFTModule(policy, OPTIM, total_steps=15), [step_of(policy, [0, 1, 2], 3)] * 15, tmp_path)
    assert metrics[-1]["train/loss"] < metrics[0]["train/loss"] - 0.5


def test_dropout_stays_on_and_is_drawn_per_step(new_policy: NewPolicy, tmp_path: Path) -> None:
    lora = {"r": 4, "alpha": 8, "dropout": 0.5, "targets": "language", "enabled": True}
    losses = []
    for dropout in (True, True, False):
        policy = new_policy(lora)
        module = SFTModule(policy, replace(OPTIM, lr=1e-2), total_steps=3, keep_dropout=dropout, seed=1)
        losses.append([m["train/loss"] for m in fit(module, [step_of(policy, [0, 1, 2], 3)] * 3, tmp_path)])
        torch.rand(5)  # what else is drawn must not matter
    assert losses[0] == losses[1]
    assert losses[0][2] != losses[2][2]
