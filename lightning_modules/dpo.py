"""`DPOModule`: preference tuning with any objective. Which method it is decides the objective that is passed in.

Plain DPO, its relatives, STIC's regularised DPO and multi-negative DPO are all objectives (`lightning_modules.objectives`);
this module scores the responses, gets the reference's log-probs, and leaves the rest to the objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_modules.objectives import Objective
from lightning_modules.tuning import TuningModule
from parallax.models.batch import PairBatch, ScoringBatch
from parallax.models.policy import Policy
from parallax.models.scoring.log_probs import PICKS, Pick
from parallax.settings.groups import Optim

ReferenceMode = Literal["live", "cached"]


class DPOModule(TuningModule):
    """Fits `policy` to preference pairs.

    Args:
        policy: what is trained.
        objective: (policy log-probs, reference log-probs, lengths) → loss per pair.
        optim: the optimiser and its schedule.
        rejected_scorer: which tokens are scored for rejected responses: their own ("label"), or ones the network chooses
            (see `parallax.models.scoring.log_probs`). Policy and reference then choose for themselves: the reference is live.
        reference_mode: "cached" takes the reference's log-probs from the batch; "live" scores each batch again with the
            network without its adapter.
        total_steps: optimiser steps of the whole fit.
        **rest: see `TuningModule`.
    """

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        optim: Optim,
        *,
        reference_mode: ReferenceMode = "cached",
        rejected_scorer: Pick = "label",
        total_steps: int,
        **rest: Any,
    ) -> None:
        super().__init__(policy, optim, total_steps=total_steps, **rest)
        if not isinstance(objective, Objective):
            raise TypeError(
                f"loss is a {type(objective).__name__}, which is no objective; derive it from "
                "lightning_modules.objectives.Objective and write its method `losses`"
            )
        if reference_mode not in ("live", "cached"):
            raise ValueError(f"reference.mode={reference_mode!r} is not known: use cached or live")
        if rejected_scorer not in PICKS:
            raise ValueError(f"pairs.rejected_scorer={rejected_scorer!r} is not known: use one of {', '.join(PICKS)}")
        chosen_live = rejected_scorer != "label" or objective.looks_at_noise
        if chosen_live and reference_mode == "cached" and objective.needs_reference:
            raise ValueError(
                "reference.mode=cached holds log-probs of given tokens, and here tokens are scored that the policy chooses as "
                "it trains; use reference=live"
            )
        self.objective, self.reference_mode, self.rejected_scorer = objective, reference_mode, rejected_scorer

    @property
    def beta(self) -> float | None:
        return self.objective.beta

    def setup(self, stage: str) -> None:
        """With lora=none a live reference is a copy of the weights as they are now."""
        if self.reference_mode == "live" and self.objective.needs_reference:
            self.policy.keep_reference()
        super().setup(stage)

    def losses(self, micro_batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Score all 1 + K responses and L looks under policy and reference, and ask the objective. Shapes: all (batch,)."""
        assert micro_batch.scoring.response_lengths.shape == micro_batch.lengths.shape, "one length per response"
        if self.objective.looks_at_noise:
            batches = [with_noisy_choice(self.policy, micro_batch)]
        else:
            batches = [micro_batch.scoring, *micro_batch.looks]
            brought = sum(look.responses_per_prompt for look in micro_batch.looks)
            if brought != len(self.objective.looks):
                raise ValueError(
                    f"{type(self.objective).__name__} looks at {len(self.objective.looks)} answers beside other images and the "
                    f"batch brings {brought}; give the data module the objective's looks"
                )
        reference = self.reference_log_probs(micro_batch, batches)
        policy, lengths = self._scored(batches)
        output = self.objective(policy, reference, lengths, micro_batch.kinds)
        return output.loss, {**output.metrics, "tokens": lengths.sum(1)}

    def _scored(self, batches: Sequence[ScoringBatch]) -> tuple[Tensor, Tensor]:
        """Summed log-probs and token counts of all columns. Shapes: (batch, 1 + K + L)."""
        first, *looks = batches
        scores = [self.policy.score(first, self.rejected_scorer), *(self.policy.score(look) for look in looks)]
        return torch.cat([score.total for score in scores], dim=1), torch.cat([score.counts for score in scores], dim=1)

    def reference_log_probs(
        self, micro_batch: PairBatch, batches: Sequence[ScoringBatch] | None = None
    ) -> Tensor | None:
        """Summed log-probs under the reference, or None for an objective that needs none. Shape: (batch, 1 + K + L).

        `batches` is what is scored, when that is not the micro-batch as it came. Raises ValueError when the log-probs should be
        in the micro-batch and are not.
        """
        if not self.objective.needs_reference:
            return None
        if self.reference_mode == "live":
            with torch.no_grad(), self.policy.reference():
                return self._scored(batches or [micro_batch.scoring, *micro_batch.looks])[0]
        if micro_batch.reference_log_probs is None:
            raise ValueError(
                f"pairs {', '.join(micro_batch.pair_ids[:3])} … come without reference log-probs, and reference.mode=cached "
                "expects them; build the reference table first, or use reference.mode=live"
            )
        return micro_batch.reference_log_probs

    def after_step(self, metrics: dict[str, float]) -> None:
        """What the objective keeps over steps takes its means, and goes into checkpoints from here."""
        self.objective.after_step(metrics)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["objective"] = self.objective.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.objective.load_state(checkpoint.get("objective", {}))


def with_noisy_choice(policy: Policy, micro_batch: PairBatch) -> ScoringBatch:
    """The batch with one more rejected response per pair: what the policy would say in the chosen one's place under noise.

    POVID's second stage: the policy reads the chosen response beside the noised image, and its most likely tokens are scored
    beside the clean image, at the chosen response's positions and with its prefixes. Shapes: (B, 1 + K, R) → (B, 2 + K, R).
    """
    batch = micro_batch.scoring
    if not micro_batch.looks:
        raise ValueError(
            "this objective looks at a noised image and the batch has none; set the stage's `noise` to a view"
        )
    chosen, mask = batch.response_ids[:, :1], batch.response_mask
    said = _as_wide(policy.choose(micro_batch.looks[0]), chosen)
    return replace(
        batch,
        response_ids=torch.cat([batch.response_ids, chosen], dim=1),
        response_lengths=torch.cat([batch.response_lengths, batch.response_lengths[:, :1]], dim=1),
        response_mask=None if mask is None else torch.cat([mask, mask[:, :1]], dim=1),
        target_ids=torch.cat([batch.response_ids, said], dim=1),
    )


def _as_wide(tokens: Tensor, given: Tensor) -> Tensor:
    """`tokens` as wide as `given`, whose padding stands beyond them. Shapes: (B, 1, R'), (B, 1, R) → (B, 1, R)."""
    return torch.cat([tokens.to(given.device), given[..., tokens.shape[-1] :]], dim=-1)
