"""How prompts and responses are laid out as rows of tokens for one forward pass. Every layout gives the same log-probs.

A layout answers two questions: what the model is called with, and where the prediction of each scored token is found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from parallax.models.batch import ScoringBatch
from parallax.models.foreign import VLM


@dataclass
class Arranged:
    """One forward pass. M counts the scored tokens of the whole batch, in row-major order of `ScoringBatch.counted()`."""

    inputs: dict[str, Any]  # keyword arguments of the model, tokens of shape (rows, S)
    predictors: Tensor  # (M,) int64: flattened (rows * S) positions whose output predicts each scored token
    targets: Tensor  # (M,) int64: the scored tokens


class Layout(Protocol):
    """Arranges a batch for `model` (a transformers model, adapters injected)."""

    def __call__(self, model: VLM, batch: ScoringBatch) -> Arranged: ...
