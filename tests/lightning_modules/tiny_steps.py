"""A handful of pairs about drawn images, the optimiser steps made of them, and a fit on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from lightning_modules.trainer import make_trainer
from parallax.models.batch import PairBatch, ScoringBatch, StepBatch
from parallax.models.policy import Policy
from parallax.records import Response, ViewSpec
from tests import typed

NewPolicy = Callable[..., Policy]

ANSWERS = (
    "There is a red circle.",
    "There is a blue square to the left.",
    "No, there is no dog.",
    "The triangle is green, and the circle above it is red.",
    "3",
    "The picture shows two people walking on a beach.",
    "A small white boat.",
    "I see 3 cups on the table and a dog.",
)
OPTIM = typed.optim(name="adamw", lr=1e-2, scheduler="cosine", warmup_ratio=0.0)


def picture(index: int) -> Image.Image:
    """A drawn image, different for every index."""
    image = Image.new("RGB", (60, 60), (20 * index % 255, 90, 160))
    ImageDraw.Draw(image).ellipse([5 + index, 8, 30 + index, 40], fill=(220, 30 * index % 255, 40))
    return image


def pair_batch(policy: Policy, places: Sequence[int], negatives: int = 1) -> PairBatch:
    """Pairs number `places` as one micro-batch: ragged prompts, ragged answers."""
    encoder = policy.encoder
    items = []
    for place in places:
        prompt = encoder.encode_prompt(picture(place), "Describe this image" + " in detail" * (place % 3) + ".")
        answers = [ANSWERS[(place + k) % len(ANSWERS)] for k in range(1 + negatives)]
        items.append((prompt, [encoder.encode_response(Response(answer)) for answer in answers]))
    scoring = encoder.collate(items)
    return PairBatch(scoring, None, [f"pair-{place}" for place in places], scoring.response_lengths)


def look_batch(policy: Policy, places: Sequence[int], view: ViewSpec) -> ScoringBatch:
    """The chosen answers of pairs number `places` beside a view of their images."""
    encoder, items = policy.encoder, []
    for place in places:
        prompt = encoder.encode_prompt(picture(place), "Describe this image" + " in detail" * (place % 3) + ".", view)
        items.append((prompt, [encoder.encode_response(Response(ANSWERS[place % len(ANSWERS)]))]))
    return encoder.collate(items)


def step_batch(policy: Policy, places: Sequence[int], micro: int, negatives: int = 1) -> StepBatch:
    """One optimiser step over pairs number `places`, in micro-batches of `micro`."""
    cuts = [places[start : start + micro] for start in range(0, len(places), micro)]
    return StepBatch([pair_batch(policy, cut, negatives) for cut in cuts], len(places))


@dataclass
class Recorder:
    """Steps as a loader, and the metrics of every step that was made of them."""

    steps: Sequence[StepBatch]

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[StepBatch]:
        return iter(self.steps)


def metrics_of_every_step() -> Any:
    """A callback that keeps `metrics`, one dict per step."""
    import pytorch_lightning as pl

    class Keep(pl.Callback):
        def __init__(self) -> None:
            self.metrics: list[dict[str, float]] = []

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            self.metrics.append(dict(pl_module.last_metrics))

    return Keep()


def fit(
    module: Any, steps: Sequence[StepBatch], folder: Path, *, callbacks: Sequence[Any] = (), **trainer: Any
) -> list[dict[str, float]]:
    """Train on CPU through all `steps` and return the metrics of each."""
    keep = metrics_of_every_step()
    settings = {"accelerator": "cpu", "devices": 1, "precision": "32-true", **trainer}
    made = make_trainer(typed.trainer(**settings), folder=folder, callbacks=[keep, *callbacks], max_steps=len(steps))
    made.fit(module, train_dataloaders=Recorder(steps))
    return keep.metrics  # type: ignore[no-any-return]


def trained_state(policy: Policy) -> dict[str, torch.Tensor]:
    """A copy of what learns."""
    return {name: value.detach().clone() for name, value in policy.trainable_parameters()}
