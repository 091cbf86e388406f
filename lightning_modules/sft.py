"""`SFTModule`: supervised fine-tuning on given answers, all assistant turns of a dialogue.

A dialogue comes as a prompt (everything up to the first answer) and one "response" (all that follows), whose
`response_mask` marks the assistant's tokens and their end tokens. So supervised and preference stages share batches, scorer
and loop. The loss is the mean cross-entropy over all marked tokens of the optimiser step, as in LLaVA's own fine-tuning.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_modules.tuning import TuningModule
from parallax.models.batch import PairBatch, StepBatch
from parallax.models.policy import Policy
from parallax.records import seed_for
from parallax.settings.groups import Optim


class SFTModule(TuningModule):
    """Fits `policy` to answers, one per dialogue.

    Args:
        policy: what is trained.
        optim: the optimiser and its schedule.
        total_steps: optimiser steps of the whole fit.
        keep_dropout: LoRA dropout stays on, as usual in fine-tuning. Each step draws from a seed of its own, so a resumed run
            draws the same.
        seed: of the dropout.
        **rest: see `TuningModule`.
    """

    def __init__(
        self,
        policy: Policy,
        optim: Optim,
        *,
        total_steps: int,
        keep_dropout: bool = True,
        seed: int = 0,
        **rest: Any,
    ) -> None:
        super().__init__(policy, optim, total_steps=total_steps, keep_dropout=keep_dropout, **rest)
        self.seed = seed

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        """Dropout depends on seed, step and process, not on what was drawn before."""
        if self.keep_dropout:
            torch.manual_seed(seed_for(self.seed, f"step-{self.global_step}", "dropout", self.global_rank))

    def denominator(self, step: StepBatch) -> float:
        """Marked tokens of the whole step, over all processes."""
        counted = [
            micro.lengths.sum() for micro in step.micro_batches if micro.weight > 0
        ]  # none on a process that only fills up
        tokens = torch.stack([torch.zeros((), dtype=torch.long), *counted]).sum()
        if self.trainer.world_size > 1:
            tokens = tokens.to(self.device)
            torch.distributed.all_reduce(tokens)
        return float(tokens)  # waits for the device

    def losses(self, micro_batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """−Σ log π over the marked tokens of each dialogue. Shapes: (batch,)."""
        scores = self.policy.score(micro_batch.scoring)
        assert scores.total.shape[1] == 1, f"a dialogue has one response, got {scores.total.shape[1]}"
        tokens = scores.counts[:, 0]
        return -scores.total[:, 0], {"logps/chosen": scores.total[:, 0], "tokens": tokens}
