"""Steps that were left out, kept for inspection: what went into them, as tensors and as text.

bad_steps/step-000012.json   why, the pairs' ids, their prompts and responses
bad_steps/step-000012.pt     the micro-batches as plain tensors; torch.load(…, weights_only=True) reads it
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch

from parallax.models.batch import PairBatch
from parallax.records.atomic import atomic_write_bytes, atomic_write_json

if TYPE_CHECKING:
    from lightning_modules.tuning import TuningModule
    from parallax.models.encoding.prompt_encoder import PromptEncoder

FOLDER = "bad_steps"


@dataclass(frozen=True, slots=True)
class BadStep:
    """An optimiser step that was left out, because a loss or a gradient was not a finite number."""

    step: int
    reason: str
    pair_ids: list[str]


def save_bad_step(folder: Path, bad: BadStep, batches: Sequence[PairBatch], encoder: PromptEncoder) -> Path:
    """Write both files and return the path of the readable one. Where some pairs are to blame, only their batches are kept."""
    guilty = [batch for batch in batches if set(batch.pair_ids) & set(bad.pair_ids)] or list(batches)
    name = folder / FOLDER / f"step-{bad.step:06d}.json"
    held = io.BytesIO()
    torch.save([_plain(batch) for batch in guilty], held)
    atomic_write_bytes(name.with_suffix(".pt"), held.getvalue())
    atomic_write_json(name, {**asdict(bad), "pairs": [pair for batch in guilty for pair in _readable(batch, encoder)]})
    return name


def _plain(batch: PairBatch) -> dict[str, Any]:
    values = {field.name: getattr(batch.scoring, field.name) for field in fields(batch.scoring)}
    values |= {"pair_ids": batch.pair_ids, "reference_log_probs": batch.reference_log_probs}
    values["looks"] = [{f.name: getattr(look, f.name) for f in fields(look)} for look in batch.looks]
    return {name: value for name, value in values.items() if value is not None and name != "features"}


def _readable(batch: PairBatch, encoder: PromptEncoder) -> list[dict[str, Any]]:
    scoring = batch.scoring
    rows = []
    for row, name in enumerate(batch.pair_ids):
        prompt = scoring.prompt_ids[row, : int(scoring.prompt_lengths[row])]
        responses = zip(scoring.response_ids[row], scoring.response_lengths[row], strict=True)
        reference = batch.reference_log_probs
        rows.append(
            {
                "pair_id": name,
                "prompt": encoder.decode(prompt.tolist()),
                "responses": [encoder.decode(ids[: int(length)].tolist()) for ids, length in responses],
                "reference_log_probs": None if reference is None else [str(float(value)) for value in reference[row]],
            }
        )
    return rows


class StepCallback(pl.Callback):
    """A callback that is also told of optimiser steps that were left out."""

    def on_bad_step(self, trainer: pl.Trainer, module: TuningModule, bad: BadStep) -> None:
        """A step was left out because a loss or a gradient was not a finite number. Called on every process."""


def callbacks_of(trainer: pl.Trainer) -> list[pl.Callback]:
    """The trainer's callbacks, a list that may be changed."""
    return trainer.callbacks  # type: ignore[attr-defined,no-any-return]
