"""Further losses of the margin z = ρ_w − ρ_l that DPO made known.

- EXO: arXiv 2402.00856, eq. 16 (two responses)
- DiscoPOP: arXiv 2406.08414, eq. 5
- LengthNormalised: DPO on log-ratios per token (TRL's `sigmoid_norm`)
- FDivergence: f-DPO, arXiv 2309.16240, eq. 10: another divergence from the reference than the reverse KL
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor

from lightning_modules.objectives.base import DPO, Losses, Objective, OfRatios, first_choice_loss, log_ratios
from parallax.settings.ranges import Positive

Divergence = Literal["forward_kl", "jensen_shannon", "alpha"]
LabelShare = Annotated[float, Interval(gt=0, lt=0.5)]
LARGEST_EXPONENT = 80.0  # e^80 still fits into float32


class EXO(OfRatios):
    """KL(policy's choice ‖ labels) for two responses: q ln(q/(1 − ε)) + (1 − q) ln((1 − q)/ε), q = σ(βz).

    Where DPO is the KL in the other direction, EXO seeks the mode.

    Args:
        label_smoothing: ε, the probability that the label gives to the rejected answer, 0 < ε < 0.5. At 0 the loss is infinite.
    """

    pairs_only: ClassVar[bool] = True
    of_the_margin: ClassVar[bool] = True

    def __init__(self, beta: Positive, label_smoothing: LabelShare) -> None:
        super().__init__(beta)
        self.label_smoothing = float(label_smoothing)

    def of_ratios(self, ratios: Tensor, lengths: Tensor) -> Losses:
        logits = self.beta * (ratios[:, 0] - ratios[:, 1])
        right = logits.sigmoid() * (F.logsigmoid(logits) - math.log1p(-self.label_smoothing))
        wrong = (-logits).sigmoid() * (F.logsigmoid(-logits) - math.log(self.label_smoothing))
        return right + wrong, {}


class DiscoPOP(OfRatios):
    """(1 − m)·(−ln σ(x)) + m·e^(−x) with x = βz and m = σ(x/τ): a loss that a language model found.

    Args:
        tau: τ, how sharply the two parts are blended, above 0; 0.05 in the paper.
    """

    pairs_only: ClassVar[bool] = True
    of_the_margin: ClassVar[bool] = True

    def __init__(self, beta: Positive, tau: Positive) -> None:
        super().__init__(beta)
        self.tau = float(tau)

    def of_ratios(self, ratios: Tensor, lengths: Tensor) -> Losses:
        x = self.beta * (ratios[:, 0] - ratios[:, 1])
        logistic = (-x / self.tau).sigmoid() * F.softplus(-x)
        exponential = torch.exp(F.logsigmoid(x / self.tau) - x)  # m·e^(−x) in one exponent: e^(−x) alone overflows
        return logistic + exponential, {}


class LengthNormalised(OfRatios):
    """DPO on log-ratios per token: −log σ(β(ρ_w/|y_w| − ρ_l/|y_l|)); with K > 1 the first choice among 1 + K.

    Args:
        beta: above 0. Log-ratios per token are small, so it is larger than DPO's: 2 and up.
    """

    of_the_margin: ClassVar[bool] = True

    def of_ratios(self, ratios: Tensor, lengths: Tensor) -> Losses:
        return first_choice_loss(ratios / lengths.clamp(min=1), self.beta), {}


class FDivergence(Objective):
    """Any loss of the margin under another f-divergence: every log-ratio ρ is replaced by f'(e^ρ), shifted to be 0 at ρ = 0.

    forward KL: 1 − e^(−ρ) · Jensen-Shannon: ln 2 + ln σ(ρ) · α-divergence: (e^((α − 1)ρ) − 1)/(α − 1), which tends to ρ
    (plain DPO) as α tends to 1. Exponents are held at 80 at most.

    Args:
        divergence: "forward_kl", "jensen_shannon" or "alpha".
        alpha: α of the α-divergence, any number but 1.
        beta: of the base when none is given.
        base: a loss of the margin; DPO by default.
    """

    def __init__(
        self,
        divergence: Divergence,
        alpha: float,
        beta: Positive,
        base: Objective | None = None,
    ) -> None:
        if alpha == 1:
            raise ValueError(
                f"loss.alpha={alpha!r} is not allowed: any number but 1, where the divergence is plain DPO's"
            )
        self.divergence, self.alpha = divergence, float(alpha)
        self.base = DPO(beta) if base is None else base
        if not self.base.of_the_margin:
            raise ValueError(
                f"loss.base is {type(self.base).__name__}, which is no function of the log-ratios alone; an f-divergence "
                "goes with DPO, MultiNegative, Robust, IPO, Hinge, EXO, DiscoPOP and LengthNormalised"
            )
        self.beta = self.base.beta

    def losses(self, policy: Tensor, reference: Tensor | None, lengths: Tensor) -> Losses:
        assert reference is not None
        scores = self.scores(log_ratios(policy, reference))
        return self.base(scores, torch.zeros_like(scores), lengths).loss, {}

    def scores(self, ratios: Tensor) -> Tensor:
        """What takes the place of ρ. Shape kept."""
        if self.divergence == "forward_kl":
            return 1 - torch.exp((-ratios).clamp(max=LARGEST_EXPONENT))
        if self.divergence == "jensen_shannon":
            return math.log(2) + F.logsigmoid(ratios)
        power = self.alpha - 1
        return (torch.exp((power * ratios).clamp(max=LARGEST_EXPONENT)) - 1) / power
