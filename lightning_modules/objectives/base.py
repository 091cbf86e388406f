"""What every objective is: log-probs in, one loss per pair out.

Convention: column 0 is the chosen response, columns 1..K are the rejected ones. An objective is a pure function of tensors;
it knows nothing of models, batches or processes. The mean over pairs is taken by the module that trains, because only that
one knows how many pairs an optimiser step has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ObjectiveOutput:
    """Loss and metrics of each pair. Shapes: all (batch,)."""

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Objective(ABC):
    """Base of all objectives: checks shapes once, computes the losses, adds the metrics every run shows.

    Subclasses write `losses`. `beta` is the strength of the KL constraint (rewards are β·ρ); objectives without a reward
    leave it at None.
    """

    pairs_only: ClassVar[bool] = False  # True: defined for one rejected response, refused for more
    looks_at_noise: ClassVar[bool] = False  # True: the last column is what the policy says under a noised image
    needs_reference: bool = True
    beta: float | None = None

    @abstractmethod
    def losses(self, policy: Tensor, reference: Tensor | None, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss (batch,) and the objective's own metrics, each (batch,). Inputs are checked and in float32 or float64."""

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in sorted(vars(self).items()))
        return f"{type(self).__name__}({settings})"

    def __call__(self, policy: Tensor, reference: Tensor | None, lengths: Tensor) -> ObjectiveOutput:
        """Score a batch of pairs.

        Args:
            policy: summed log-probs of the responses under the policy, in nats. Shape: (batch, 1 + K), chosen first.
            reference: the same under the reference, or None for an objective that needs none. Shape: (batch, 1 + K).
            lengths: scored tokens of each response, end token included. Shape: (batch, 1 + K).

        Raises:
            ValueError: shapes do not fit, the reference is missing, or K > 1 where only pairs are defined.
        """
        self._check(policy, reference, lengths)
        policy = _at_least_float32(policy)
        reference = None if reference is None else _at_least_float32(reference).detach()
        loss, metrics = self.losses(policy, reference, lengths)
        assert loss.shape == policy.shape[:1], f"{type(self).__name__} gave a loss of shape {tuple(loss.shape)}"
        if reference is not None:
            metrics = {**reward_metrics(policy.detach(), reference, self.beta), **metrics}
        metrics = {**log_prob_metrics(policy.detach()), **metrics}
        return ObjectiveOutput(loss, {name: value.detach() for name, value in metrics.items()})

    def _check(self, policy: Tensor, reference: Tensor | None, lengths: Tensor) -> None:
        name = type(self).__name__
        if policy.ndim != 2 or policy.shape[1] < (2 if self.needs_reference else 1):
            raise ValueError(
                f"{name} got policy log-probs of shape {tuple(policy.shape)}; it needs (batch, 1 + K), chosen first, K ≥ 1"
            )
        if lengths.shape != policy.shape:
            raise ValueError(f"{name} got lengths of shape {tuple(lengths.shape)}; they must be {tuple(policy.shape)}")
        if reference is not None and reference.shape != policy.shape:
            raise ValueError(
                f"{name} got reference log-probs of shape {tuple(reference.shape)}; they must be {tuple(policy.shape)}"
            )
        if reference is None and self.needs_reference:
            raise ValueError(f"{name} compares with a reference and got none; pass its log-probs, cached or live")
        if self.pairs_only and policy.shape[1] != 2:
            raise ValueError(
                f"{name} is defined for one rejected response and got {policy.shape[1] - 1}; "
                "use loss=multi_negative (or loss=stic), or set pairs.num_negatives=1"
            )


def log_ratios(policy: Tensor, reference: Tensor) -> Tensor:
    """ρ(y) = log π_θ(y|I,x) − log π_ref(y|I,x). Shape: (batch, 1 + K)."""
    return policy - reference


def reward_metrics(policy: Tensor, reference: Tensor, beta: float | None) -> dict[str, Tensor]:
    """Rewards under the names TRL's users know, each (batch,). With K > 1 the rejected side is the mean over the K.

    `likelihood_displacement` is 1 where the chosen response has become less likely than under the reference. Without a β
    (an objective that defines no reward) rewards are the bare log-ratios.
    """
    rewards = (1.0 if beta is None else beta) * log_ratios(policy, reference)
    chosen, rejected = rewards[:, 0], rewards[:, 1:]
    metrics = {"rewards/chosen": chosen, "likelihood_displacement": (policy[:, 0] < reference[:, 0]).to(rewards.dtype)}
    if rejected.shape[1]:
        metrics["rewards/rejected"] = rejected.mean(1)
        metrics["rewards/accuracies"] = (chosen[:, None] > rejected).to(rewards.dtype).mean(1)
        metrics["rewards/margins"] = chosen - rejected.mean(1)
    return metrics


def log_prob_metrics(policy: Tensor) -> dict[str, Tensor]:
    """Summed log-probs of chosen and (mean over the K) rejected responses, each (batch,), in nats."""
    metrics = {"logps/chosen": policy[:, 0]}
    if policy.shape[1] > 1:
        metrics["logps/rejected"] = policy[:, 1:].mean(1)
    return metrics


def positive(name: str, value: float) -> float:
    """`value` if it is a finite number above zero. Raises ValueError naming the key otherwise."""
    if not (value > 0 and value != float("inf")):
        raise ValueError(f"loss.{name}={value!r} is not allowed: it must be a finite number above 0")
    return float(value)


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype in (torch.float32, torch.float64) else values.float()
