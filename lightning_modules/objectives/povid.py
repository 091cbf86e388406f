"""POVID's second stage (arXiv 2402.11411, as its public code does it): two kinds of rejected answer in one loss.

One rejected answer is a text with hallucinations; the other is what the policy itself would say in the chosen answer's place
when the image is covered with noise. Both are compared with the chosen answer by DPO, and the two losses are weighted.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from lightning_modules.objectives.base import Objective, log_ratios
from lightning_modules.objectives.preference import first_choice_loss
from parallax.settings.ranges import NotNegative, Positive


class Povid(Objective):
    """text_weight · (−log σ(β(ρ_w − ρ_text))) + noise_weight · (−log σ(β(ρ_w − ρ_noise))).

    Log-probs come as (batch, 3): chosen, the text's, the noise's. The module that trains adds the third column.

    Args:
        beta: strength of the pull to the reference, above 0.
        text_weight, noise_weight: 0 or more, not both 0; 0.5 each in the public code.
    """

    looks_at_noise: ClassVar[bool] = True

    def __init__(self, beta: Positive, text_weight: NotNegative, noise_weight: NotNegative) -> None:
        self.beta: float = float(beta)
        if text_weight + noise_weight == 0:
            raise ValueError(
                "loss.text_weight and loss.noise_weight are both 0, which leaves no loss; raise one of them"
            )
        self.text_weight, self.noise_weight = float(text_weight), float(noise_weight)

    def losses(self, policy: Tensor, reference: Tensor | None, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        assert reference is not None
        if policy.shape[1] != 3:
            raise ValueError(
                f"Povid compares a chosen answer with one rejected text and one choice under noise, and got {policy.shape[1]} "
                "columns in place of 3; use pairs.num_negatives=1"
            )
        ratios = log_ratios(policy, reference)
        text = first_choice_loss(ratios[:, [0, 1]], self.beta)
        noise = first_choice_loss(ratios[:, [0, 2]], self.beta)
        return self.text_weight * text + self.noise_weight * noise, {"loss/text": text, "loss/noise": noise}
