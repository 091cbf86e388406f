"""The same log-probs through TRL's own loss code: `DPOTrainer._compute_loss`, run on a model that returns given log-probs."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules.objectives import (
    CPO,
    DPO,
    EXO,
    IPO,
    NCA,
    ORPO,
    SPPO,
    APODown,
    APOZero,
    DiscoPOP,
    FDivergence,
    Hinge,
    LengthNormalised,
    Objective,
    Robust,
    SimPO,
    Weighted,
)
from tests.parts import part

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
        _metrics=defaultdict(lambda: defaultdict(list)), _total_train_tokens=0, _tp_size=1,
        **{
            "label_smoothing": 0.0, "loss_weights": [1.0], "args": SimpleNamespace(), "f_divergence_type": "reverse_kl",
            **settings,
        },
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
        (lambda beta: EXO(beta, 0.2), {"loss_types": ["exo_pair"], "label_smoothing": 0.2}),
        (lambda beta: DiscoPOP(beta, 0.05), {"loss_types": ["discopop"], "args": SimpleNamespace(discopop_tau=0.05)}),
        (lambda beta: NCA(beta), {"loss_types": ["nca_pair"]}),
        (lambda beta: SPPO(beta), {"loss_types": ["sppo_hard"]}),
        (lambda beta: APOZero(beta), {"loss_types": ["apo_zero"]}),
        (lambda beta: APODown(beta), {"loss_types": ["apo_down"]}),
        (lambda beta: LengthNormalised(beta), {"loss_types": ["sigmoid_norm"]}),
        (
            lambda beta: part(FDivergence, "jensen_shannon", base=Robust(beta, 0.2)),
            {"loss_types": ["robust"], "label_smoothing": 0.2, "f_divergence_type": "js_divergence"},
        ),
        (
            lambda beta: part(FDivergence, "forward_kl", base=LengthNormalised(beta)),
            {"loss_types": ["sigmoid_norm"], "f_divergence_type": "forward_kl"},
        ),
        (
            lambda beta: Weighted([(0.8, DPO(beta)), (0.3, IPO(beta))]),
            {"loss_types": ["sigmoid", "ipo"], "loss_weights": [0.8, 0.3]},
        ),
    ],
    ids=[
        "sigmoid",
        "ipo",
        "hinge",
        "robust",
        "exo_pair",
        "discopop",
        "nca_pair",
        "sppo_hard",
        "apo_zero",
        "apo_down",
        "sigmoid_norm",
        "js_divergence",
        "forward_kl",
        "weighted",
    ],
)
def test_losses_gradients_and_metrics_are_those_of_trl(make: Any, settings: dict[str, Any], beta: float) -> None:
    ours_in, theirs_in = (per_token_log_probs(1).requires_grad_() for _ in range(2))
    reference = per_token_log_probs(2)
    objective: Objective = make(beta)
    output = objective(ours_in.sum(-1), reference.sum(-1), LENGTHS)
    theirs, metrics = trl_loss(theirs_in, reference, beta=beta, **settings)
    near = 1e-6 if settings["loss_types"] == ["exo_pair"] else 1e-12  # TRL holds EXO's ε in float32
    assert output.loss.mean().item() == pytest.approx(theirs.item(), abs=near)
    output.loss.mean().backward()
    theirs.backward()
    assert torch.allclose(ours_in.grad, theirs_in.grad, atol=near)  # type: ignore[arg-type]
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


@pytest.mark.parametrize("alpha", [-0.5, 0.5, 2.0])
def test_the_alpha_divergence_is_that_of_trl(alpha: float) -> None:
    """In float32, the only precision in which TRL has it."""
    policy, reference = per_token_log_probs(1).float(), per_token_log_probs(2).float()
    theirs, _ = trl_loss(
        policy,
        reference,
        beta=0.3,
        loss_types=["sigmoid"],
        f_divergence_type="alpha_divergence",
        f_alpha_divergence_coef=alpha,
    )
    ours = FDivergence("alpha", alpha=alpha, beta=0.3)(policy.sum(-1), reference.sum(-1), LENGTHS).loss.mean()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["sigmoid", "simpo"])
def test_cpo_and_simpo_are_those_of_trl(kind: str) -> None:
    trainer_class = pytest.importorskip("trl.experimental.cpo").CPOTrainer
    trainer = SimpleNamespace(
        alpha=0.0,
        beta=0.7,
        simpo_gamma=0.4,
        loss_type=kind,
        label_smoothing=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )
    policy = per_token_log_probs(1).sum(-1)
    shown = policy / LENGTHS if kind == "simpo" else policy
    theirs, chosen, rejected = trainer_class.cpo_loss(trainer, shown[:, 0], shown[:, 1])
    objective = SimPO(0.7, gamma=0.4) if kind == "simpo" else CPO(0.7, alpha=0.0)
    output = objective(policy, None, LENGTHS)
    assert torch.allclose(output.loss, theirs, atol=1e-12)
    assert torch.allclose(output.metrics["rewards/chosen"], chosen, atol=1e-12)
    assert torch.allclose(output.metrics["rewards/rejected"], rejected, atol=1e-12)


def test_the_odds_ratio_is_that_of_trl() -> None:
    trainer_class = pytest.importorskip("trl.experimental.orpo").ORPOTrainer
    trainer = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device="cpu"))
    policy = per_token_log_probs(1).sum(-1)
    shown = policy / LENGTHS
    theirs, *_ = trainer_class.odds_ratio_loss(trainer, shown[:, 0], shown[:, 1])
    output = ORPO(0.3)(policy, None, LENGTHS)
    assert torch.allclose(output.loss, (-shown[:, 0] - theirs), atol=1e-5)  # TRL works in float32 here
    assert torch.allclose(output.metrics["rewards/chosen"], 0.3 * shown[:, 0], atol=1e-12)
