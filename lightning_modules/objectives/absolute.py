"""Losses that hold each response against the reference by itself, not only against the other one.

A loss of the margin z = ρ_w − ρ_l is content when both responses become unlikely, as long as the rejected one falls faster.
These say where each side should go. With K rejected responses the rejected side is the mean over the K.

- NCA: noise contrastive alignment, arXiv 2402.05369, eq. 14 for two responses
- SPPO: self-play preference optimisation, arXiv 2405.00675, eq. 4.7 with hard labels
- BCO: binary classifier optimisation, arXiv 2404.04656, eq. 6 to 8; a part of MPO (arXiv 2411.10442)
- APOZero, APODown: anchored preference optimisation, arXiv 2408.06266, eq. 7 and 8
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from annotated_types import Interval
from torch import Tensor
from torch.nn.functional import softplus

from lightning_modules.objectives.base import Losses, OfRatios
from parallax.settings.ranges import Positive

Shift = Literal["running_mean", "none"]
Decay = Annotated[float, Interval(gt=0, lt=1)]
REWARD_MEAN = "rewards/both_sides"


class NCA(OfRatios):
    """−ln σ(r_w) − ½ ln σ(−r_w) − ½ ln σ(−r_l), r = βρ. At the start the chosen reward is pulled up as hard as the other down."""

    def of_ratios(self, ratios: Tensor, lengths: Tensor) -> Losses:
        rewards = self.beta * ratios
        chosen, rejected = rewards[:, 0], rewards[:, 1:]
        return softplus(-chosen) + 0.5 * softplus(chosen) + 0.5 * softplus(rejected).mean(1), {}


class BCO(OfRatios):
    """−log σ(r_w − δ) − mean_k log σ(−(r_k − δ)), r = βρ: is an answer better or worse than usual?

    "Usual" is δ, the mean of both sides' rewards over all pairs of all steps before this one (0 in the first), so it depends
    neither on micro-batches nor on processes; it lies in checkpoints and gets no gradient.

    Args:
        shift: "running_mean", or "none" for δ = 0 (as in TRL since 0.29).
        decay: weight of the past in the running mean, above 0 and below 1; None weighs all steps alike.
    """

    kept = (REWARD_MEAN,)

    def __init__(self, beta: Positive, shift: Shift, decay: Decay | None = None) -> None:
        super().__init__(beta)
        self.shift, self.decay = shift, decay
        self._mean, self._steps = 0.0, 0

    def of_ratios(self, ratios: Tensor, lengths: Tensor) -> Losses:
        rewards = self.beta * ratios
        chosen, rejected = rewards[:, 0], rewards[:, 1:]
        delta = self._mean if self.shift == "running_mean" else 0.0
        loss = softplus(delta - chosen) + softplus(rejected - delta).mean(1)
        return loss, {REWARD_MEAN: (chosen + rejected.mean(1)) / 2}

    def after_step(self, means: Mapping[str, float]) -> None:
        self._steps += 1
        share = 1 / self._steps if self.decay is None or self._steps == 1 else 1 - self.decay
        self._mean += share * (means[REWARD_MEAN] - self._mean)

    def state(self) -> dict[str, float]:
        return {"mean": self._mean, "steps": float(self._steps)}

    def load_state(self, state: Mapping[str, float]) -> None:
        self._mean, self._steps = float(state.get("mean", 0.0)), int(state.get("steps", 0))


class SPPO(OfRatios):
    """(ρ_w − 1/(2β))² + (ρ_l + 1/(2β))²: each log-ratio has a goal of its own.

    The value scales with 1/β² (50 at the start with β = 0.1), and so does the gradient: lower the learning rate with β.
    """

    def of_ratios(self, ratios: Tensor, lengths: Tensor) -> Losses:
        goal = 0.5 / self.beta
        return (ratios[:, 0] - goal).square() + (ratios[:, 1:] + goal).square().mean(1), {}


class APOZero(OfRatios):
    """1 − σ(r_w) + σ(r_l): the chosen response up, the rejected one down. For chosen answers better than the model's own."""

    def of_ratios(self, ratios: Tensor, lengths: Tensor) -> Losses:
        rewards = self.beta * ratios
        return (-rewards[:, 0]).sigmoid() + rewards[:, 1:].sigmoid().mean(1), {}


class APODown(OfRatios):
    """σ(r_w) + 1 − σ(r_w − r_l): both down, the rejected one further. For a model better than its chosen answers."""

    def of_ratios(self, ratios: Tensor, lengths: Tensor) -> Losses:
        rewards = self.beta * ratios
        return rewards[:, 0].sigmoid() + (rewards[:, 1:] - rewards[:, :1]).sigmoid().mean(1), {}
