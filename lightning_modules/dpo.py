"""`DPOModule`: preference tuning with any objective. Which method it is decides the objective that is passed in.

Plain DPO, its relatives, STIC's regularised DPO and multi-negative DPO are all objectives (`lightning_modules.objectives`);
this module scores the responses, gets the reference's log-probs, and leaves the rest to the objective.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_modules.objectives import Objective
from lightning_modules.tuning import TuningModule
from parallax.models.batch import PairBatch

ReferenceMode = Literal["live", "cached"]


class DPOModule(TuningModule):
    """Fits `policy` to preference pairs.

    Args:
        policy: what is trained.
        objective: (policy log-probs, reference log-probs, lengths) → loss per pair.
        optim: the `optim` group as a plain dict.
        reference_mode: "cached" takes the reference's log-probs from the batch; "live" scores each batch again with the
            network without its adapter.
        total_steps: optimiser steps of the whole fit.
        **rest: see `TuningModule`.
    """

    def __init__(
        self,
        policy: Any,
        objective: Objective,
        optim: Mapping[str, Any],
        *,
        reference_mode: ReferenceMode = "cached",
        total_steps: int,
        **rest: Any,
    ) -> None:
        super().__init__(policy, optim, total_steps=total_steps, **rest)
        if reference_mode not in ("live", "cached"):
            raise ValueError(f"reference.mode={reference_mode!r} is not known: use cached or live")
        self.objective, self.reference_mode = objective, reference_mode

    def setup(self, stage: str) -> None:
        """With lora=none a live reference is a copy of the weights as they are now."""
        if self.reference_mode == "live" and self.objective.needs_reference:
            self.policy.keep_reference()
        super().setup(stage)

    def losses(self, micro_batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Score all 1 + K responses under policy and reference, and ask the objective. Shapes: all (batch,)."""
        reference = self.reference_log_probs(micro_batch)
        scores = self.policy.score(micro_batch.scoring)
        assert scores.total.shape == micro_batch.lengths.shape, "one log-prob per response, chosen first"
        output = self.objective(scores.total, reference, scores.counts)
        return output.loss, {**output.metrics, "tokens": scores.counts.sum(1)}

    def reference_log_probs(self, micro_batch: PairBatch) -> Tensor | None:
        """Summed log-probs under the reference, or None for an objective that needs none. Shape: (batch, 1 + K).

        Raises ValueError when they should be in the batch and are not.
        """
        if not self.objective.needs_reference:
            return None
        if self.reference_mode == "live":
            with torch.no_grad(), self.policy.reference():
                total: Tensor = self.policy.score(micro_batch.scoring).total
            return total
        if micro_batch.reference_log_probs is None:
            raise ValueError(
                f"pairs {', '.join(micro_batch.pair_ids[:3])} … come without reference log-probs, and reference.mode=cached "
                "expects them; build the reference table first, or use reference.mode=live"
            )
        return micro_batch.reference_log_probs
