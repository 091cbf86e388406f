"""How prompts and responses are laid out as rows of tokens for one forward pass. Every layout gives the same log-probs.

A layout answers two questions: what the model is called with, and where the prediction of each scored token is found.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from parallax.models.batch import ScoringBatch
from parallax.models.foreign import VLM
from parallax.models.packed_tensors import sent


@dataclass
class Arranged:
    """One forward pass. M counts the scored tokens of the whole batch, in row-major order of `ScoringBatch.counted()`."""

    inputs: dict[str, Any]  # keyword arguments of the model, tokens of shape (rows, S)
    predictors: Tensor  # (M,) int64: flattened (rows * S) positions whose output predicts each scored token
    targets: Tensor  # (M,) int64: the scored tokens
    images: dict[str, Any] = field(
        default_factory=dict
    )  # more of them: images, on the model's device whatever the others are

    def to(self, device: torch.device | None, *beside: Tensor | None) -> tuple[Arranged, list[Any]]:
        """This pass, and tensors that belong to it, on the model's `device`; None: they are there already."""
        inputs, predictors, *rest = sent([self.inputs, self.predictors, *beside], device)
        return replace(self, inputs=inputs, predictors=predictors), rest


class Layout(Protocol):
    """Arranges a batch for `model` (a transformers model, adapters injected)."""

    def __call__(self, model: VLM, batch: ScoringBatch) -> Arranged: ...
