"""Objectives that papers compare with: numbers worked out by hand, values at the start, K > 1."""

import math

import pytest
import torch
from torch import Tensor

from lightning_modules.objectives import (
    CPO,
    DPO,
    EXO,
    IPO,
    NCA,
    NLL,
    ORPO,
    SPPO,
    APODown,
    APOZero,
    DiscoPOP,
    FDivergence,
    LengthNormalised,
    MultiNegative,
    Objective,
    SimPO,
    Stic,
    Weighted,
)
from tests.parts import part


def given(policy: list[float], reference: list[float] | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """One pair with lengths 4, 5, 6, …; the reference is 0 by default, so that log-probs are log-ratios."""
    values = torch.tensor([policy], dtype=torch.float64)
    base = torch.zeros_like(values) if reference is None else torch.tensor([reference], dtype=torch.float64)
    return values, base, torch.arange(4, 4 + len(policy)).expand_as(values)


# ρ = (3, −1), so with β = 0.5 r = (1.5, −0.5) and βz = 2. σ(2) = 0.8807970780, −ln σ(2) = 0.1269280110,
# softplus(−1.5) = 0.2014132780, softplus(1.5) = 1.7014132780, softplus(−0.5) = 0.4740769842.
BY_HAND = [
    (NCA(0.5), 0.2014132780 + 0.5 * 1.7014132780 + 0.5 * 0.4740769842),
    (SPPO(0.5), (3 - 1) ** 2 + (-1 + 1) ** 2),
    (APOZero(0.5), 0.1824255238 + 0.3775406688),  # σ(−1.5) + σ(−0.5)
    (APODown(0.5), 0.8175744762 + 0.1192029220),  # σ(1.5) + σ(−2)
    (
        EXO(0.5, 0.1),  # q ln(q / 0.9) + (1 − q) ln((1 − q) / 0.1)
        0.8807970780 * (-0.1269280110 + 0.1053605157) + 0.1192029220 * (-2.1269280110 + 2.3025850930),
    ),
    (DiscoPOP(0.5, tau=1.0), 0.1192029220 * 0.1269280110 + 0.8807970780 * 0.1353352832),
    (LengthNormalised(1.0), math.log(1 + math.exp(-(3 / 4 + 1 / 5)))),
    (part(FDivergence, "forward_kl", beta=0.5), math.log(1 + math.exp(-0.5 * (math.exp(1) - math.exp(-3))))),
    (
        part(FDivergence, "jensen_shannon", beta=0.5),  # ln σ(3) − ln σ(−1) = −0.0485873516 + 1.3132616875
        math.log(1 + math.exp(-0.5 * 1.2646743359)),
    ),
    (
        FDivergence("alpha", alpha=0.5, beta=0.5),  # scores (1 − e^(−1.5)) / 0.5 and (1 − e^0.5) / 0.5
        math.log(1 + math.exp(-0.5 * (1.5537396797 + 1.2974425414))),
    ),
]


@pytest.mark.parametrize(("objective", "expected"), BY_HAND, ids=lambda value: repr(value))
def test_losses_by_hand(objective: Objective, expected: float) -> None:
    assert objective(*given([3.0, -1.0])).loss.item() == pytest.approx(expected, abs=1e-8)


def test_losses_without_a_reference_by_hand() -> None:
    # log-probs −8 and −6 over 4 and 5 tokens: per token −2 and −1.2
    policy, _, lengths = given([-8.0, -6.0])
    assert CPO(0.5, alpha=0.0)(policy, None, lengths).loss.item() == pytest.approx(1.3132616875, abs=1e-9)  # −ln σ(−1)
    assert CPO(0.5, alpha=2.0)(policy, None, lengths).loss.item() == pytest.approx(1.3132616875 + 2 * 2, abs=1e-9)
    # 2 · (−2 + 1.2) − 0.4 = −2: −ln σ(−2) = 2.1269280110
    assert SimPO(2.0, gamma=0.4)(policy, None, lengths).loss.item() == pytest.approx(2.1269280110, abs=1e-9)


def test_the_odds_ratio_by_hand() -> None:
    # mean token probabilities 1/2 and 1/3 have odds 1 and 1/2: −ln σ(ln 2) = −ln(2/3)
    policy, _, lengths = given([-4 * math.log(2), -5 * math.log(3)])
    expected = math.log(2) + 0.1 * -math.log(2 / 3)
    assert ORPO(0.1)(policy, None, lengths).loss.item() == pytest.approx(expected, abs=1e-12)
    assert ORPO(0.0)(policy, None, lengths).loss.item() == part(NLL)(policy, None, lengths).loss.item()


@pytest.mark.parametrize("value", [0.0, -1e-9, -1e-5, -0.69, -0.7, -5.0, -1e6])
def test_odds_of_certain_and_of_hopeless_tokens_are_finite(value: float) -> None:
    policy = torch.tensor([[value * 4, -3.0]], dtype=torch.float32, requires_grad=True)
    loss = ORPO(weight=0.1)(policy, None, torch.tensor([[4, 5]])).loss
    loss.sum().backward()
    assert loss.isfinite().all() and policy.grad is not None and policy.grad.isfinite().all()


AT_THE_START = [
    (EXO(0.1, 0.001), 2.761231), (part(NCA), 2 * math.log(2)), (SPPO(0.1), 50.0), (part(APOZero), 1.0), (part(APODown), 1.0),
    (DiscoPOP(0.1, 0.05), 0.846574),
    (LengthNormalised(beta=2.0), math.log(2)),
    (part(FDivergence, "forward_kl"), math.log(2)), (part(FDivergence, "alpha"), math.log(2)),
    (part(FDivergence, "jensen_shannon", base=IPO(0.5)), 1.0),
]  # fmt: skip


@pytest.mark.parametrize(("objective", "value"), AT_THE_START, ids=lambda value: repr(value))
def test_the_value_where_policy_and_reference_are_one(objective: Objective, value: float) -> None:
    assert objective(*given([-20.0, -30.0], [-20.0, -30.0])).loss.item() == pytest.approx(value, abs=1e-6)


def test_nca_pulls_both_sides_with_a_quarter_of_beta_at_the_start() -> None:
    policy, reference, lengths = given([-20.0, -30.0], [-20.0, -30.0])
    policy.requires_grad_()
    NCA(0.1)(policy, reference, lengths).loss.sum().backward()
    assert policy.grad is not None
    assert policy.grad[0].tolist() == pytest.approx([-0.025, 0.025], abs=1e-12)


def test_apo_zero_lifts_the_chosen_answer_and_apo_down_lowers_it() -> None:
    for objective, sign in ((part(APOZero), -1), (part(APODown), 1)):
        policy, reference, lengths = given([-20.0, -34.0], [-20.0, -30.0])  # a rejected answer that has fallen already
        policy.requires_grad_()
        objective(policy, reference, lengths).loss.sum().backward()
        assert policy.grad is not None
        assert torch.sign(policy.grad[0, 0]).item() == sign
        assert policy.grad[0, 1].item() > 0  # the rejected one falls under both


ANY_K = [
    part(NCA),
    part(SPPO),
    part(APOZero),
    part(APODown),
    CPO(0.1, alpha=1.0),
    CPO(0.1, alpha=0.0),
    SimPO(beta=2.0, gamma=1.0),
    ORPO(weight=0.1),
]


@pytest.mark.parametrize("objective", ANY_K, ids=repr)
def test_several_rejected_answers_cost_the_mean_over_their_pairs(objective: Objective) -> None:
    policy, reference, lengths = given([-3.0, -5.0, -9.0, -4.0], [-4.0, -4.0, -4.0, -4.5])
    together = objective(policy, reference, lengths).loss
    alone = [objective(policy[:, [0, k]], reference[:, [0, k]], lengths[:, [0, k]]).loss for k in (1, 2, 3)]
    assert torch.allclose(together, torch.stack(alone).mean(0), atol=1e-14)


def test_an_f_divergence_near_the_reverse_kl_is_dpo_and_takes_several_rejected_answers() -> None:
    three = given([1.0, -0.5, 0.3])
    near = part(FDivergence, "alpha", alpha=1 - 1e-9, base=MultiNegative(0.3))(*three).loss
    assert near.item() == pytest.approx(MultiNegative(0.3)(*three).loss.item(), abs=1e-6)


@pytest.mark.parametrize(
    "base", [part(Stic), part(NLL), part(NCA), SimPO(beta=2.0, gamma=1.0), Weighted([(1.0, part(DPO))])], ids=repr
)
def test_an_f_divergence_refuses_losses_that_are_not_of_the_margin(base: Objective) -> None:
    with pytest.raises(ValueError, match="function of the log-ratios alone.*DPO, MultiNegative"):
        part(FDivergence, base=base)


@pytest.mark.parametrize("objective", [CPO(0.5, alpha=1.0), SimPO(2.0, gamma=1.0), ORPO(0.1)], ids=repr)
def test_rewards_without_a_reference_carry_trls_names(objective: Objective) -> None:
    policy, _, lengths = given([-8.0, -12.0])
    metrics = objective(policy, None, lengths).metrics
    assert metrics["rewards/margins"].item() == pytest.approx(
        metrics["rewards/chosen"].item() - metrics["rewards/rejected"].item()
    )
    assert metrics["rewards/accuracies"].item() == 1.0
