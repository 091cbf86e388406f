"""Preference losses without a reference: the policy's own log-probs are the rewards.

No reference table is built and no reference is held. With K rejected responses the loss is the mean over the K pairs.

- CPO: contrastive preference optimisation, arXiv 2401.08417, eq. 3 and 5
- SimPO: arXiv 2405.14734, eq. 6
- ORPO: arXiv 2403.07691, eq. 6 and 7, with the likelihood of the answer's tokens only
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lightning_modules.objectives.base import Losses, Objective, preference_metrics
from lightning_modules.objectives.likelihood import chosen_nll
from parallax.settings.ranges import NotNegative, Positive


class CPO(Objective):
    """−log σ(β(log π_w − log π_l)) + α·NLL(chosen) per token.

    Args:
        beta: β on the summed log-probs, above 0.
        alpha: weight α of the chosen answer's likelihood, 0 or more; 1 in the paper, 0 leaves it out.
    """

    needs_reference = False

    def __init__(self, beta: Positive, alpha: NotNegative) -> None:
        self.beta: float = float(beta)
        self.alpha = float(alpha)

    def losses(self, policy: Tensor, reference: Tensor | None, lengths: Tensor) -> Losses:
        rewards = self.beta * policy
        preference = softplus(rewards[:, 1:] - rewards[:, :1]).mean(1)
        nll = chosen_nll(policy, lengths, "per_token", 1.0)
        return preference + self.alpha * nll, {
            "loss/preference": preference, "loss/nll": nll, **preference_metrics(rewards)
        }  # fmt: skip


class SimPO(Objective):
    """−log σ(β(a_w − a_l) − γ), a = log-prob per token: no reference, no reward for length. Add `NLL` by loss=weighted.

    Args:
        beta: β on log-probs per token, above 0; 2 to 2.5 in the paper.
        gamma: γ, the margin by which the chosen answer should win, 0 or more; 0.3 to 1.6 in the paper.
    """

    needs_reference = False

    def __init__(self, beta: Positive, gamma: NotNegative) -> None:
        self.beta: float = float(beta)
        self.gamma = float(gamma)

    def losses(self, policy: Tensor, reference: Tensor | None, lengths: Tensor) -> Losses:
        rewards = self.beta * policy / lengths.clamp(min=1)
        loss = softplus(self.gamma - (rewards[:, :1] - rewards[:, 1:])).mean(1)
        return loss, preference_metrics(rewards)


class ORPO(Objective):
    """NLL(chosen) per token + λ·(−log σ(log odds ratio)), odds = p/(1 − p) of the mean probability e^a of a token.

    Args:
        weight: λ of the odds ratio, 0 or more; 0.1 in the paper (0 is fine-tuning on the chosen answers).
    """

    needs_reference = False

    def __init__(self, weight: NotNegative) -> None:
        self.weight = float(weight)

    def losses(self, policy: Tensor, reference: Tensor | None, lengths: Tensor) -> Losses:
        per_token = policy / lengths.clamp(min=1)
        log_odds = per_token - _log_one_minus_exp(per_token)
        odds = softplus(log_odds[:, 1:] - log_odds[:, :1]).mean(1)
        nll = -per_token[:, 0]
        return nll + self.weight * odds, {
            "loss/odds_ratio": odds, "loss/nll": nll, **preference_metrics(self.weight * per_token)
        }  # fmt: skip


def _log_one_minus_exp(values: Tensor) -> Tensor:
    """ln(1 − e^x) of x < 0; certain tokens (x = 0) count as x = −1e-6."""
    values = values.clamp(max=-1e-6)
    near = values > -0.6931472
    low = torch.log1p(-torch.exp(torch.where(near, -1.0, values)))
    return torch.where(near, torch.log(-torch.expm1(torch.where(near, values, -1.0))), low)
