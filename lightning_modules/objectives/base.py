"""What every objective is: log-probs in, one loss per pair out. And the one that the others are measured by.

- first choice among many: SeVa (arXiv 2404.10501), eq. 15-18; with K = 1 it is DPO (arXiv 2305.18290), eq. 7
- label smoothing: conservative DPO (E. Mitchell, "A note on DPO with noisy preferences"), eq. 3

Convention: column 0 is the chosen response, columns 1..K are the rejected ones, and then comes one column for each of the
objective's `looks` (an answer scored beside another image, see `parallax.preference.looks`). An objective is a pure function of
tensors; it knows nothing of models, batches or processes. The mean over pairs is taken by the module that trains, because only
that one knows how many pairs an optimiser step has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor

from parallax.preference.looks import Look
from parallax.preference.token_weights import TokenWeights
from parallax.settings.part import Part
from parallax.settings.ranges import Positive


@dataclass(frozen=True, slots=True)
class ObjectiveOutput:
    """Loss and metrics of each pair. Shapes: all (batch,)."""

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


Losses = tuple[Tensor, dict[str, Tensor]]  # loss and metrics of each pair, each (batch,)


class Objective(Part, ABC):
    """Base of all objectives: checks shapes once, computes the losses, adds the metrics every run shows.

    Subclasses write `losses`. `beta` is the strength of the KL constraint (rewards are β·ρ); objectives without a reward
    leave it at None. What an argument may hold its annotation says (`beta: Positive`), and what an objective is, the class
    variables below; the check of a configuration reads both from the source.
    """

    pairs_only: ClassVar[bool] = False  # True: defined for one rejected response, refused for more
    of_the_margin: ClassVar[bool] = False  # True: a function of the log-ratios (and lengths) alone, see `FDivergence`
    looks_at_noise: ClassVar[bool] = False  # True: the last column is what the policy says under a noised image
    needs_reference: bool = True  # False: reads no reference log-probs
    looks: tuple[Look, ...] = ()  # further columns, after the pair's own
    token_weights: TokenWeights | None = None  # of every scored token; None: all count the same
    beta: float | None = None
    kept: tuple[str, ...] = ()  # metrics that `after_step` wants to have

    @abstractmethod
    def losses(self, policy: Tensor, reference: Tensor | None, lengths: Tensor) -> Losses:
        """Loss (batch,) and the objective's own metrics, each (batch,). Inputs are checked and in float32 or float64."""

    def losses_by_kind(self, policy: Tensor, reference: Tensor | None, lengths: Tensor, kinds: Sequence[str]) -> Losses:
        """As `losses`, for an objective that treats some kinds of pairs otherwise; `kinds` has one for each pair."""
        return self.losses(policy, reference, lengths)

    def after_step(self, means: Mapping[str, float]) -> None:
        """Called once after each optimiser step with the means of all metrics over the step's pairs, of all processes."""

    def state(self) -> dict[str, float]:
        """What `after_step` has gathered, for a checkpoint."""
        return {}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Go on from `state()`."""

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in sorted(vars(self).items()))
        return f"{type(self).__name__}({settings})"

    def __call__(
        self, policy: Tensor, reference: Tensor | None, lengths: Tensor, kinds: Sequence[str] = ()
    ) -> ObjectiveOutput:
        """Score a batch of pairs.

        Args:
            policy: summed log-probs under the policy, in nats: of the chosen response, the K rejected ones, and the L looks.
                Shape: (batch, 1 + K + L).
            reference: the same under the reference, or None for an objective that needs none. Shape: (batch, 1 + K + L).
            lengths: scored tokens of each, end token included. Shape: (batch, 1 + K + L).
            kinds: of the pairs, for objectives that ask.

        Raises:
            ValueError: shapes do not fit, the reference is missing, or K > 1 where only pairs are defined.
        """
        self._check(policy, reference, lengths)
        policy = _at_least_float32(policy)
        reference = None if reference is None else _at_least_float32(reference).detach()
        loss, metrics = self.losses_by_kind(policy, reference, lengths, kinds)
        assert loss.shape == policy.shape[:1], f"{type(self).__name__} gave a loss of shape {tuple(loss.shape)}"
        own = policy.detach()[:, : policy.shape[1] - len(self.looks)]
        if reference is not None:
            known = reference[:, : own.shape[1]]
            metrics = {**reward_metrics(own, known, self.beta), **off_policy(known, lengths), **metrics}
        metrics = {**log_prob_metrics(own), **metrics}
        return ObjectiveOutput(loss, {name: value.detach() for name, value in metrics.items()})

    def _check(self, policy: Tensor, reference: Tensor | None, lengths: Tensor) -> None:
        name, further = type(self).__name__, len(self.looks)
        if policy.ndim != 2 or policy.shape[1] < (2 if self.needs_reference else 1) + further:
            more = f" + {further} further columns" if further else ""
            raise ValueError(
                f"{name} got policy log-probs of shape {tuple(policy.shape)}; it needs (batch, 1 + K{more}), chosen first, K ≥ 1"
            )
        if lengths.shape != policy.shape:
            raise ValueError(f"{name} got lengths of shape {tuple(lengths.shape)}; they must be {tuple(policy.shape)}")
        if reference is not None and reference.shape != policy.shape:
            raise ValueError(
                f"{name} got reference log-probs of shape {tuple(reference.shape)}; they must be {tuple(policy.shape)}"
            )
        if reference is None and self.needs_reference:
            raise ValueError(f"{name} compares with a reference and got none; pass its log-probs, cached or live")
        if self.pairs_only and policy.shape[1] != 2 + further:
            raise ValueError(
                f"{name} is defined for one rejected response and got {policy.shape[1] - 1 - further}; "
                "use loss=multi_negative (or loss=stic), or set pairs.num_negatives=1"
            )


class OfRatios(Objective):
    """An objective of the log-ratios ρ(y) = log π_θ(y|I,x) − log π_ref(y|I,x) alone. Subclasses write `of_ratios`.

    Args:
        beta: strength of the pull to the reference, above 0; rewards are r = βρ.
    """

    def __init__(self, beta: Positive) -> None:
        self.beta: float = float(beta)

    @abstractmethod
    def of_ratios(self, ratios: Tensor, lengths: Tensor) -> Losses:
        """As `losses`. Shapes: (batch, 1 + K + L) each."""

    def losses(self, policy: Tensor, reference: Tensor | None, lengths: Tensor) -> Losses:
        assert reference is not None
        return self.of_ratios(log_ratios(policy, reference), lengths)


WrongLabels = Annotated[
    float, Interval(ge=0, lt=0.5)
]  # share of pairs that are the wrong way round; at 0.5 labels say nothing


def first_choice_loss(ratios: Tensor, beta: float) -> Tensor:
    """−log of the probability that the first of 1 + K responses is chosen: the one loss path of the house.

    With p = e^{βρ_w} / (e^{βρ_w} + Σ_k e^{βρ_k}):  L = −log p = log(1 + Σ_k e^{β(ρ_k − ρ_w)})
    = softplus(logsumexp_k β(ρ_k − ρ_w)). K = 1 gives −log σ(β(ρ_w − ρ_l)), which is DPO.

    Args:
        ratios: ρ, chosen first. Shape: (batch, 1 + K).

    Returns: Shape: (batch,).
    """
    assert ratios.ndim == 2 and ratios.shape[1] >= 2, f"ratios must be (batch, 1 + K), got {tuple(ratios.shape)}"
    return F.softplus(torch.logsumexp(beta * (ratios[:, 1:] - ratios[:, :1]), dim=1))


class MultiNegative(OfRatios):
    """One chosen against K ≥ 1 rejected responses. All log-ratios equal gives ln(1 + K)."""

    of_the_margin: ClassVar[bool] = True

    def of_ratios(self, ratios: Tensor, lengths: Tensor) -> Losses:
        return first_choice_loss(ratios, self.beta), {}


class DPO(OfRatios):
    """−log σ(βz), z = ρ_w − ρ_l; with label smoothing ε: (1 − ε)(−log σ(βz)) + ε(−log σ(−βz)).

    Args:
        label_smoothing: the share ε of pairs believed to be the wrong way round, 0 ≤ ε < 0.5.
    """

    pairs_only: ClassVar[bool] = True
    of_the_margin: ClassVar[bool] = True

    def __init__(self, beta: Positive, label_smoothing: WrongLabels = 0.0) -> None:
        super().__init__(beta)
        self.label_smoothing = float(label_smoothing)

    def of_ratios(self, ratios: Tensor, lengths: Tensor) -> Losses:
        smoothing = self.label_smoothing
        loss = first_choice_loss(ratios, self.beta)
        if smoothing == 0.0:
            return loss, {}
        swapped = first_choice_loss(ratios.flip(1), self.beta)  # −log σ(−βz): the pair the other way round
        return (1 - smoothing) * loss + smoothing * swapped, {}


def log_ratios(policy: Tensor, reference: Tensor) -> Tensor:
    """ρ(y) = log π_θ(y|I,x) − log π_ref(y|I,x). Shape: (batch, 1 + K)."""
    return policy - reference


def reward_metrics(policy: Tensor, reference: Tensor, beta: float | None) -> dict[str, Tensor]:
    """Rewards β·ρ under the names TRL's users know, each (batch,). With K > 1 the rejected side is the mean over the K.

    `likelihood_displacement` is 1 where the chosen response has become less likely than under the reference. Without a β
    (an objective that defines no reward) rewards are the bare log-ratios.
    """
    rewards = (1.0 if beta is None else beta) * log_ratios(policy, reference)
    falls = (policy[:, 0] < reference[:, 0]).to(rewards.dtype)
    return {**preference_metrics(rewards), "likelihood_displacement": falls}


def preference_metrics(rewards: Tensor) -> dict[str, Tensor]:
    """TRL's four names, each (batch,), from rewards of shape (batch, 1 + K), chosen first. Detached."""
    chosen, rejected = rewards.detach()[:, 0], rewards.detach()[:, 1:]
    metrics = {"rewards/chosen": chosen}
    if rejected.shape[1]:
        metrics["rewards/rejected"] = rejected.mean(1)
        metrics["rewards/accuracies"] = (chosen[:, None] > rejected).to(rewards.dtype).mean(1)
        metrics["rewards/margins"] = chosen - rejected.mean(1)
    return metrics


def off_policy(reference: Tensor, lengths: Tensor) -> dict[str, Tensor]:
    """How unlikely each side is to the reference, in nats per token, each (batch,): far below 0 is far off-policy."""
    per_token = reference / lengths[:, : reference.shape[1]].clamp(min=1)
    metrics = {"reference_per_token/chosen": per_token[:, 0]}
    if reference.shape[1] > 1:
        metrics["reference_per_token/rejected"] = per_token[:, 1:].mean(1)
    return metrics


def log_prob_metrics(policy: Tensor) -> dict[str, Tensor]:
    """Summed log-probs of chosen and (mean over the K) rejected responses, each (batch,), in nats."""
    metrics = {"logps/chosen": policy[:, 0]}
    if policy.shape[1] > 1:
        metrics["logps/rejected"] = policy[:, 1:].mean(1)
    return metrics


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype in (torch.float32, torch.float64) else values.float()
