"""Objectives with the policy's own likelihood of the chosen response: plain fine-tuning, and STIC's regularised DPO.

STIC (arXiv 2405.19716), eq. 4.1: ℓ(β(ρ_w − ρ_l)) − α·log π_θ(y_w|x). The second term keeps the chosen response likely,
which DPO alone does not: it only widens the gap, often by lowering both sides. The released code subtracts the summed
log-prob divided by 1024, so the default is norm=sum with α = 1/1024.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from lightning_modules.objectives.base import Losses, MultiNegative, Objective
from parallax.settings.ranges import Positive

Norm = Literal["sum", "per_token", "const"]


def chosen_nll(policy: Tensor, lengths: Tensor, norm: Norm, constant: float) -> Tensor:
    """−log π_θ(y_w|x), summed over tokens, per token, or divided by a constant. Shape: (batch,).

    Args:
        policy: summed log-probs. Shape: (batch, 1 + K), chosen first.
        lengths: scored tokens. Shape: (batch, 1 + K).
        constant: the divisor of norm="const", in tokens.
    """
    nll = -policy[:, 0]
    if norm == "per_token":
        return nll / lengths[:, 0].clamp(min=1)
    return nll / constant if norm == "const" else nll


class NLL(Objective):
    """Fine-tuning on the chosen response alone: no reference, no rejected side. The control of every preference run.

    Args:
        norm: "per_token" (each pair counts the same), "sum", or "const".
        constant: divisor of norm="const", in tokens.
    """

    needs_reference = False

    def __init__(self, norm: Norm, constant: Positive) -> None:
        self.norm, self.constant = norm, float(constant)

    def losses(self, policy: Tensor, reference: Tensor | None, lengths: Tensor) -> Losses:
        return chosen_nll(policy, lengths, self.norm, self.constant), {}


class Stic(Objective):
    """A preference objective plus α times the policy's negative log-likelihood of the chosen response.

    Args:
        beta: β of the preference term, above 0; unused when `base` is given.
        alpha: weight α of the likelihood term, above 0. Its size depends on `norm`: 1/1024 with "sum" and 1 with "const"
            (constant 1024) are the same; with "per_token" 0.1 … 1 is a good range.
        norm: "sum", "per_token" or "const".
        constant: divisor of norm="const", in tokens.
        base: the preference term; by default the first choice among 1 + K, which is DPO for K = 1.
    """

    def __init__(
        self,
        beta: Positive,
        alpha: Positive,
        norm: Norm,
        constant: Positive,
        base: Objective | None = None,
    ) -> None:
        self.alpha, self.norm, self.constant = float(alpha), norm, float(constant)
        self.base = MultiNegative(beta) if base is None else base
        self.needs_reference, self.beta, self.kept = self.base.needs_reference, self.base.beta, self.base.kept
        self.looks, self.token_weights = self.base.looks, self.base.token_weights

    def losses(self, policy: Tensor, reference: Tensor | None, lengths: Tensor) -> Losses:
        preference = self.base(policy, reference, lengths)
        nll = chosen_nll(policy, lengths, self.norm, self.constant)
        loss = preference.loss + self.alpha * nll
        kept = {name: preference.metrics[name] for name in self.kept}
        return loss, {"loss/preference": preference.loss, "loss/nll": nll, **kept}

    def after_step(self, means: Mapping[str, float]) -> None:
        self.base.after_step(means)

    def state(self) -> dict[str, float]:
        return self.base.state()

    def load_state(self, state: Mapping[str, float]) -> None:
        self.base.load_state(state)
