"""Preference objectives that users of TRL expect beside DPO, and those that weigh tokens or look at noise.

- Robust: provably robust DPO (arXiv 2403.00409), eq. 12
- IPO: arXiv 2310.12036, eq. 17, on log-ratios per token
- Hinge: SLiC (arXiv 2305.10425) on DPO's margin
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lightning_modules.objectives.base import DPO, Losses, MultiNegative, OfRatios, WrongLabels, first_choice_loss
from parallax.preference.token_weights import ChangedSpans, Tail
from parallax.settings.ranges import Count, NotNegative, Positive, Share


class Robust(DPO):
    """DPO made unbiased under a known share ε of wrong labels: [(1 − ε)(−log σ(βz)) − ε(−log σ(−βz))] / (1 − 2ε).

    Unlike label smoothing it may fall below zero. Same arguments as `DPO`.
    """

    def __init__(self, beta: Positive, label_smoothing: WrongLabels) -> None:
        super().__init__(beta, label_smoothing)

    def of_ratios(self, ratios: Tensor, lengths: Tensor) -> Losses:
        share = self.label_smoothing
        loss, swapped = first_choice_loss(ratios, self.beta), first_choice_loss(ratios.flip(1), self.beta)
        return ((1 - share) * loss - share * swapped) / (1 - 2 * share), {}


class IPO(OfRatios):
    """(ρ_w/|y_w| − ρ_l/|y_l| − 1/(2β))²: log-ratios per token, so that long answers do not dominate the square.

    Args:
        beta: the paper's τ, above 0. The target margin per token is 1/(2β).
    """

    pairs_only: ClassVar[bool] = True
    of_the_margin: ClassVar[bool] = True

    def of_ratios(self, ratios: Tensor, lengths: Tensor) -> Losses:
        per_token = ratios / lengths.clamp(min=1)
        return (per_token[:, 0] - per_token[:, 1] - 1 / (2 * self.beta)).square(), {}


class Hinge(OfRatios):
    """max(0, 1 − βz): no pull on a pair whose reward margin is at least 1."""

    pairs_only: ClassVar[bool] = True
    of_the_margin: ClassVar[bool] = True

    def of_ratios(self, ratios: Tensor, lengths: Tensor) -> Losses:
        return torch.relu(1 - self.beta * (ratios[:, 0] - ratios[:, 1])), {}


class LDDPO(MultiNegative):
    """LD-DPO (arXiv 2409.06411): tokens beyond the shortest answer's length count `alpha`, in policy and reference alike.

    Args:
        alpha: 0 (answers are compared up to the length of the shortest one) to 1 (DPO).
    """

    def __init__(self, beta: Positive, alpha: Share) -> None:
        super().__init__(beta)
        self.token_weights = Tail(float(alpha))


class DDPO(MultiNegative):
    """Dense DPO (RLHF-V, arXiv 2312.00849, section 3.2): tokens in which the two answers differ count `gamma`, the others 1.

    Args:
        gamma: above 0; 5 in the paper, 1 is DPO.
        min_match: runs of equal tokens shorter than this belong to the change around them, 1 or more.
        both_sides: only changes with tokens on both sides count, as in the authors' code; else insertions and deletions too.
        normalise: divide each log-prob by the sum of its weights, as in the paper; β is then to be larger.
    """

    pairs_only: ClassVar[bool] = True

    def __init__(
        self,
        beta: Positive,
        gamma: Positive,
        min_match: Count,
        both_sides: bool,
        normalise: bool = False,
    ) -> None:
        super().__init__(beta)
        self.token_weights = ChangedSpans(float(gamma), min_match, both_sides, normalise)


class Povid(OfRatios):
    """text_weight · (−log σ(β(ρ_w − ρ_text))) + noise_weight · (−log σ(β(ρ_w − ρ_noise))).

    Log-probs come as (batch, 3): chosen, the text's, the noise's. The module that trains adds the third column.

    Args:
        text_weight, noise_weight: 0 or more, not both 0; 0.5 each in the public code.
    """

    looks_at_noise: ClassVar[bool] = True

    def __init__(self, beta: Positive, text_weight: NotNegative, noise_weight: NotNegative) -> None:
        super().__init__(beta)
        if text_weight + noise_weight == 0:
            raise ValueError(
                "loss.text_weight and loss.noise_weight are both 0, which leaves no loss; raise one of them"
            )
        self.text_weight, self.noise_weight = float(text_weight), float(noise_weight)

    def of_ratios(self, ratios: Tensor, lengths: Tensor) -> Losses:
        if ratios.shape[1] != 3:
            raise ValueError(
                f"Povid compares a chosen answer with one rejected text and one choice under noise, and got {ratios.shape[1]} "
                "columns in place of 3; use pairs.num_negatives=1"
            )
        text = first_choice_loss(ratios[:, [0, 1]], self.beta)
        noise = first_choice_loss(ratios[:, [0, 2]], self.beta)
        return self.text_weight * text + self.noise_weight * noise, {"loss/text": text, "loss/noise": noise}
