"""Watches the rewards of a preference fit and says in words, once each, what usually goes wrong and which knob to turn.

What is watched is a running mean over the newest steps, so that one odd batch says nothing.
"""

from __future__ import annotations

import logging
from collections import deque
from statistics import median
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl

from lightning_modules.bad_steps import StepCallback, callbacks_of
from lightning_modules.callbacks.best_step import EveryNSteps
from lightning_modules.step_stream import SealedStep
from parallax.models.batch import StepBatch

if TYPE_CHECKING:
    from lightning_modules.bad_steps import BadStep
    from lightning_modules.tuning import TuningModule

log = logging.getLogger(__name__)

LONGER = 1.5  # times as long is worth a word
MOVED_BY = 4  # the step by which rewards can have moved: the first steps of the warm-up have almost no learning rate
FAR = 1.0  # nats per token

Means = dict[str, float]


class RewardHealth(StepCallback):
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
        self._lengths = [0, 0, 0]  # tokens of chosen answers, of rejected ones (mean over the K), pairs
        self._norms: list[float] = []  # gradient norms of the first window

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, pl_module: TuningModule, outputs: object, batch: StepBatch | SealedStep, *_: Any
    ) -> None:
        """Look at the newest steps."""
        self._count_identical(batch.step if isinstance(batch, SealedStep) else batch)
        metrics = {name.removeprefix("train/"): value for name, value in pl_module.last_metrics.items()}
        if "rewards/margins" not in metrics:
            return
        self._recent.append(metrics)
        if len(self._recent) < self.window:
            return
        shared = [name for name in metrics if all(name in step for step in self._recent)]
        means = {name: sum(step[name] for step in self._recent) / self.window for name in shared}
        means |= self._further(pl_module, means)
        self._answers(trainer)
        for name, sentence in diagnose(means, trainer.global_step, self.total_steps):
            self._say(name, sentence)

    def on_bad_step(self, trainer: pl.Trainer, module: TuningModule, bad: BadStep) -> None:
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

    def _further(self, module: TuningModule, means: Means) -> Means:
        """What is worked out from a step's metrics: nats per token from the reference, the gradient against its beginning."""
        more: Means = {}
        beta, (chosen, rejected, pairs) = module.beta, self._lengths
        if beta and pairs and "likelihood_displacement" in means:  # rewards are distances from a reference
            moved = (abs(means["rewards/chosen"]) + abs(means["rewards/rejected"])) / beta
            more["nats_per_token"] = moved * pairs / max(1, chosen + rejected)
        if "grad_norm" in means:
            self._norms = self._norms or [step["grad_norm"] for step in self._recent]
            more["gradient_growth"] = means["grad_norm"] / max(1e-12, median(self._norms))
        return more

    def _answers(self, trainer: pl.Trainer) -> None:
        """How long the policy's own answers have become, where it is evaluated while it trains."""
        for watch in callbacks_of(trainer):
            if isinstance(watch, EveryNSteps) and len(watch.history) > 1:
                seen = [row["answers/words"] for row in watch.history.values() if "answers/words" in row]
                cut = [row.get("answers/cut", 0.0) for row in watch.history.values()]
                if len(seen) > 1 and seen[-1] > LONGER * max(1.0, seen[0]):
                    self._say(
                        "length_explodes",
                        f"Answers have grown from {seen[0]:.0f} to {seen[-1]:.0f} words while training, and {cut[-1]:.0%} of "
                        "them are cut by the token limit. Look at whether chosen answers are the longer ones (pairs.max_chars), "
                        "lower optim.lr, or raise loss.beta.",
                    )

    def _count_identical(self, step: StepBatch) -> None:
        for micro_batch in step.micro_batches:
            ids = micro_batch.scoring.response_ids
            if ids.shape[1] > 1:
                self._lengths[0] += int(micro_batch.lengths[:, 0].sum())
                self._lengths[1] += int(micro_batch.lengths[:, 1:].float().mean(1).sum())
                self._lengths[2] += len(micro_batch)
            if ids.shape[1] > 1 and not micro_batch.looks:  # with looks the images may make the difference
                inside = micro_batch.scoring.counted()
                differs = ((ids[:, :1] != ids[:, 1:]) & (inside[:, :1] | inside[:, 1:])).any(2)
                differs |= micro_batch.lengths[:, :1] != micro_batch.lengths[:, 1:]
                self._same += int((~differs).any(1).sum())
                self._pairs += len(micro_batch)
        if self._pairs >= 8 and self._same / self._pairs > 0.1:
            self._say(
                "identical_answers",
                f"{self._same} of {self._pairs} pairs have a rejected answer identical to the chosen one and teach nothing. "
                "Turn on pairs.drop_equal, or corrupt the image more (aug.noise_steps).",
            )

        chosen, rejected, pairs = self._lengths
        if pairs >= 32 and chosen > LONGER * max(1, rejected):
            self._say(
                "longer_is_chosen",
                f"Chosen answers have {chosen / pairs:.0f} tokens on average and rejected ones {rejected / pairs:.0f}: the "
                "policy may learn to be long. Bound them (pairs.max_chars, generation.max_new_tokens) or use another aug.",
            )

    def _say(self, name: str, sentence: str) -> None:
        if name not in self.warnings:
            self.warnings[name] = sentence
            log.warning(sentence)


def diagnose(means: Means, step: int, total_steps: int) -> list[tuple[str, str]]:
    """What is wrong with these running means at this step, as (short name, sentence).

    `means` has "rewards/margins"; what rests on another metric is left out where the objective does not report it, as objectives
    without a reference report no `likelihood_displacement`.
    """
    margin, late = means["rewards/margins"], step > total_steps / 2
    chosen, displaced = means.get("rewards/chosen", 0.0), means.get("likelihood_displacement", 0.0)
    accuracy = means.get("rewards/accuracies", 0.5)  # of a coin
    found = {}
    if chosen < -0.1 and displaced > 0.7:
        found["likelihood_displacement"] = (
            f"The chosen answers are becoming less likely (likelihood displacement): by step {step} their reward is {chosen:.2f} "
            f"and {displaced:.0%} of them lie below the reference. The policy is drifting, not only choosing. Use loss=stic, "
            "lower optim.lr, or raise loss.beta."
        )
    if accuracy > 0.98 and margin > 5:
        found["saturated"] = (
            f"The pairs are told apart with a margin of {margin:.1f} by step {step} of {total_steps}: there is little left to "
            "learn from them, and going on mostly pushes rejected answers further down. Use fewer trainer.max_epochs, lower "
            "optim.lr, or pairs.refresh=epoch."
        )
    if late and step >= MOVED_BY and abs(margin) < 1e-3:
        found["no_signal"] = (
            f"More than half of the {total_steps} steps are done and the margin is {margin:+.5f}: the policy does not move. "
            "Raise optim.lr, train for more steps, or look at whether the answers of a pair differ at all."
        )
    if late and accuracy < 0.45 and margin < -1e-3:
        found["wrong_way"] = (
            f"By step {step} the rejected answers are preferred ({accuracy:.0%} of pairs are the right way round). Check that "
            "chosen and rejected are not swapped, and lower optim.lr."
        )
    if means.get("nats_per_token", 0.0) > FAR:
        found["far_from_reference"] = (
            f"By step {step} the answers' log-probs lie {means['nats_per_token']:.1f} nats per token from the reference: the "
            "policy has moved so far that the pairs say little about it now. Raise loss.beta, lower optim.lr, or use "
            "pairs.refresh=epoch."
        )
    if means.get("gradient_growth", 1.0) > 10:
        found["gradient_explodes"] = (
            f"By step {step} the gradient norm is {means['gradient_growth']:.0f} times what it was at the beginning. Lower "
            "optim.lr, raise optim.warmup_ratio, or set trainer.gradient_clip_val."
        )
    return list(found.items())
