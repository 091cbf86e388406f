"""Watches the rewards of a preference fit and says in words, once each, what usually goes wrong and which knob to turn.

What is watched is a running mean over the newest steps, so that one odd batch says nothing.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

import pytorch_lightning as pl

from parallax.models.batch import StepBatch

log = logging.getLogger(__name__)

Means = dict[str, float]


class RewardHealth(pl.Callback):
    """Collects `warnings`: short name → sentence, in the order they came up.

    Args:
        total_steps: optimiser steps of the fit; early steps are not judged.
        window: steps the running mean covers.
    """

    def __init__(self, total_steps: int, window: int = 20) -> None:
        self.total_steps, self.window = total_steps, max(1, min(window, total_steps // 3 or 1))
        self.warnings: dict[str, str] = {}
        self._recent: deque[Means] = deque(maxlen=self.window)
        self._same, self._pairs = 0, 0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        """Look at the newest steps."""
        self._count_identical(getattr(batch, "step", batch))
        metrics = {name.removeprefix("train/"): value for name, value in pl_module.last_metrics.items()}
        if "rewards/margins" not in metrics:
            return
        self._recent.append(metrics)
        if len(self._recent) < self.window:
            return
        means = {name: sum(step[name] for step in self._recent) / self.window for name in metrics}
        for name, sentence in diagnose(means, trainer.global_step, self.total_steps):
            self._say(name, sentence)

    def on_bad_step(self, trainer: pl.Trainer, pl_module: Any, bad: Any) -> None:
        """A step was left out because something was not a finite number."""
        self._say(
            "not_finite",
            f"Step {bad.step} was left out because {bad.reason}. If it happens again: lower optim.lr, or use "
            "trainer.precision=bf16-mixed instead of 16-mixed.",
        )

    def state_dict(self) -> dict[str, Any]:
        """Warnings survive a resume."""
        return {"warnings": dict(self.warnings)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.warnings = dict(state_dict["warnings"])

    def _count_identical(self, step: Any) -> None:
        if not isinstance(step, StepBatch):
            return
        for micro_batch in step.micro_batches:
            ids = micro_batch.scoring.response_ids
            if ids.shape[1] > 1:
                inside = micro_batch.scoring.counted()
                differs = ((ids[:, :1] != ids[:, 1:]) & (inside[:, :1] | inside[:, 1:])).any(2)
                differs |= micro_batch.lengths[:, :1] != micro_batch.lengths[:, 1:]
                self._same += int((~differs).any(1).sum())
                self._pairs += len(micro_batch)
        if self._pairs >= 8 and self._same / self._pairs > 0.1:
            self._say(
                "identical_answers",
                f"{self._same} of {self._pairs} pairs have a rejected answer identical to the chosen one and teach nothing. "
                "Turn on pairs.drop_equal, or spoil the image more (aug.noise_steps).",
            )

    def _say(self, name: str, sentence: str) -> None:
        if name not in self.warnings:
            self.warnings[name] = sentence
            log.warning(sentence)


def diagnose(means: Means, step: int, total_steps: int) -> list[tuple[str, str]]:
    """What is wrong with these running means at this step, as (short name, sentence)."""
    chosen, margin, accuracy = means["rewards/chosen"], means["rewards/margins"], means["rewards/accuracies"]
    falls, late = means["chosen_falls"], step > total_steps / 2
    found = {}
    if chosen < -0.1 and falls > 0.7:
        found["chosen_falls"] = (
            f"The chosen answers are becoming less likely: by step {step} their reward is {chosen:.2f} and {falls:.0%} of them "
            "lie below the reference. The policy is drifting, not only choosing. Use loss=stic, lower optim.lr, or raise "
            "loss.beta."
        )
    if accuracy > 0.98 and margin > 5:
        found["saturated"] = (
            f"The pairs are told apart with a margin of {margin:.1f} by step {step} of {total_steps}: there is little left to "
            "learn from them, and going on mostly pushes rejected answers further down. Use fewer trainer.max_epochs, lower "
            "optim.lr, or pairs.refresh=epoch."
        )
    if late and abs(margin) < 1e-3:
        found["no_signal"] = (
            f"More than half of the {total_steps} steps are done and the margin is {margin:+.5f}: the policy does not move. "
            "Raise optim.lr, train for more steps, or look at whether the answers of a pair differ at all."
        )
    if late and accuracy < 0.45 and margin < -1e-3:
        found["wrong_way"] = (
            f"By step {step} the rejected answers are preferred ({accuracy:.0%} of pairs are the right way round). Check that "
            "chosen and rejected are not swapped, and lower optim.lr."
        )
    return list(found.items())
