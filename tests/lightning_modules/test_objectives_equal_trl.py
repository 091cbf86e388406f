"""The same log-probs through TRL's own loss code: `DPOTrainer._compute_loss`, run on a model that returns given log-probs."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules.objectives import DPO, IPO, Hinge, Objective, Robust, Weighted

PROMPT, LONGEST, PAIRS = 3, 7, 5
LENGTHS = torch.tensor([[7, 3], [2, 5], [4, 4], [6, 1], [3, 7]])  # tokens of chosen and rejected


def per_token_log_probs(seed: int) -> Tensor:
    """Log-probs of each response token, 0 at padding. Shape: (pairs, 2, longest)."""
    values = -3 * torch.rand(PAIRS, 2, LONGEST, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values * (torch.arange(LONGEST) < LENGTHS[..., None])


def trl_loss(policy: Tensor, reference: Tensor, **settings: Any) -> tuple[Tensor, dict[str, float]]:
    """TRL's loss and metrics. Its batch is all chosen rows, then all rejected ones: prompt, response, padding."""
    trainer_class = pytest.importorskip("trl").DPOTrainer

    def rows(values: Tensor) -> Tensor:
        return torch.cat([values[:, 0], values[:, 1]])

    lengths = rows(LENGTHS)
    mask = torch.zeros(2 * PAIRS, PROMPT + LONGEST, dtype=torch.long)
    mask[:, PROMPT:] = (torch.arange(LONGEST) < lengths[:, None]).long()
    log_probs = torch.cat([torch.zeros(2 * PAIRS, PROMPT - 1), rows(policy)], dim=1)  # position i predicts token i + 1
    summed = rows(reference.sum(-1)).chunk(2)
    inputs = {
        "input_ids": torch.ones_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": summed[0],
        "ref_rejected_logps": summed[1],
    }
    zeros = torch.zeros_like(log_probs)

    class Model:
        training = True

        def __call__(self, **_: Any) -> Any:
            return SimpleNamespace(log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())

    accelerator = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)
    trainer = SimpleNamespace(
        accelerator=accelerator, model=SimpleNamespace(training=True), aux_loss_enabled=False,
        ld_alpha=None, precompute_ref_logps=True, use_weighting=False,
        f_divergence_type="reverse_kl", _metrics=defaultdict(lambda: defaultdict(list)), _total_train_tokens=0, _tp_size=1,
        **{"label_smoothing": 0.0, "loss_weights": [1.0], "args": SimpleNamespace(), **settings},
    )  # fmt: skip
    loss = trainer_class._compute_loss(trainer, Model(), inputs, return_outputs=False)
    return loss, {name: values[-1] for name, values in trainer._metrics["train"].items()}


@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (lambda beta: DPO(beta), {"loss_types": ["sigmoid"]}),
        (lambda beta: IPO(beta), {"loss_types": ["ipo"]}),
        (lambda beta: Hinge(beta), {"loss_types": ["hinge"]}),
        (lambda beta: Robust(beta, 0.2), {"loss_types": ["robust"], "label_smoothing": 0.2}),
        (
            lambda beta: Weighted([(0.8, DPO(beta)), (0.3, IPO(beta))]),
            {"loss_types": ["sigmoid", "ipo"], "loss_weights": [0.8, 0.3]},
        ),
    ],
    ids=["sigmoid", "ipo", "hinge", "robust", "weighted"],
)
def test_losses_gradients_and_metrics_are_those_of_trl(make: Any, settings: dict[str, Any], beta: float) -> None:
    ours_in, theirs_in = (per_token_log_probs(1).requires_grad_() for _ in range(2))
    reference = per_token_log_probs(2)
    objective: Objective = make(beta)
    output = objective(ours_in.sum(-1), reference.sum(-1), LENGTHS)
    theirs, metrics = trl_loss(theirs_in, reference, beta=beta, **settings)
    assert output.loss.mean().item() == pytest.approx(theirs.item(), abs=1e-12)
    output.loss.mean().backward()
    theirs.backward()
    assert torch.allclose(ours_in.grad, theirs_in.grad, atol=1e-12)  # type: ignore[arg-type]
    for name in (
        "rewards/chosen",
        "rewards/rejected",
        "rewards/accuracies",
        "rewards/margins",
        "logps/chosen",
        "logps/rejected",
    ):
        assert output.metrics[name].mean().item() == pytest.approx(metrics[name], abs=1e-6), name


def test_label_smoothing_is_trls_robust_loss_without_its_correction() -> None:
    """TRL 1.x kept smoothing in `robust` only: ours with smoothing is the mixture of two of its sigmoid losses."""
    policy, reference = per_token_log_probs(1), per_token_log_probs(2)
    there, _ = trl_loss(policy, reference, beta=0.3, loss_types=["sigmoid"])
    robust, _ = trl_loss(policy, reference, beta=0.3, loss_types=["robust"], label_smoothing=0.2)
    swapped = (0.8 * there - (1 - 0.4) * robust) / 0.2  # robust = (0.8 there − 0.2 swapped) / 0.6
    ours = DPO(0.3, label_smoothing=0.2)(policy.sum(-1), reference.sum(-1), LENGTHS).loss.mean()
    assert ours.item() == pytest.approx((0.8 * there + 0.2 * swapped).item(), abs=1e-12)
