"""Objectives against arithmetic worked out by hand, finite differences and their limits."""

import math

import pytest
import torch
from torch import Tensor

from lightning_modules import objectives
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
    Hinge,
    LengthNormalised,
    MultiNegative,
    Objective,
    Robust,
    SimPO,
    Stic,
    Weighted,
)
from tests.parts import part

PAIR_OBJECTIVES: list[Objective] = [
    DPO(0.1), DPO(0.1, label_smoothing=0.2), IPO(0.1), Hinge(0.5), Robust(0.1, 0.1), EXO(0.1, 0.001), DiscoPOP(0.1, 0.05),
]  # fmt: skip
ANY_K: list[Objective] = [
    MultiNegative(0.1), part(Stic, 0.1), part(Stic, 0.3, alpha=0.3, norm="per_token"), part(Stic, 0.1, alpha=1.0, norm="const"),
    NCA(0.1), SPPO(0.5), APOZero(0.1), APODown(0.1), CPO(0.1, alpha=1.0), SimPO(2.0, gamma=1.0), ORPO(0.1), LengthNormalised(2.0),
    *(part(FDivergence, name, base=MultiNegative(0.1)) for name in ("forward_kl", "jensen_shannon", "alpha")),
]  # fmt: skip


def inputs(ratios: list[list[float]], reference: float = -20.0) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs whose log-ratios are `ratios`; lengths 4, 5, 6, …"""
    wanted = torch.tensor(ratios, dtype=torch.float64)
    base = torch.full_like(wanted, reference)
    lengths = torch.arange(4, 4 + wanted.shape[1]).expand_as(wanted)
    return base + wanted, base, lengths


def loss_of(objective: Objective, ratios: list[list[float]]) -> Tensor:
    return objective(*inputs(ratios)).loss


def test_no_margin_costs_ln_2() -> None:
    assert loss_of(DPO(0.1), [[1.5, 1.5]]).item() == pytest.approx(math.log(2), abs=1e-12)


@pytest.mark.parametrize("num_negatives", [1, 2, 4, 8])
def test_all_responses_alike_cost_ln_of_their_number(num_negatives: int) -> None:
    loss = loss_of(MultiNegative(0.1), [[0.7] * (1 + num_negatives)])
    assert loss.item() == pytest.approx(math.log(1 + num_negatives), abs=1e-12)


def test_dpo_by_hand() -> None:
    # z = 3 − (−1) = 4, β = 0.5: −log σ(2) = log(1 + e^−2) = log(1.1353352832) = 0.1269280110
    assert loss_of(DPO(0.5), [[3.0, -1.0]]).item() == pytest.approx(0.1269280110, abs=1e-9)


def test_first_choice_by_hand() -> None:
    # β = 1, ρ = (ln 2, 0, ln 3): p = 2 / (2 + 1 + 3) = 1/3, so the loss is ln 3
    assert loss_of(MultiNegative(1.0), [[math.log(2), 0.0, math.log(3)]]).item() == pytest.approx(
        math.log(3), abs=1e-12
    )


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
def test_swapping_chosen_and_rejected_changes_the_loss_by_exactly_beta_z(beta: float) -> None:
    there, back = loss_of(DPO(beta), [[2.0, -3.5]]), loss_of(DPO(beta), [[-3.5, 2.0]])
    assert (back - there).item() == pytest.approx(beta * 5.5, abs=1e-12)


def test_dpo_is_the_first_choice_among_two() -> None:
    ratios = [[0.3, -2.0], [-4.0, 9.0], [0.0, 0.0]]
    assert torch.equal(loss_of(DPO(0.1), ratios), loss_of(MultiNegative(0.1), ratios))


def test_the_gradient_of_the_first_choice_is_the_papers() -> None:
    # ∂L/∂ρ_w = −β(1 − p), ∂L/∂ρ_k = β e^{βρ_k} / denominator; with β = 1 and ρ = (ln 2, 0, ln 3): p = 1/3
    policy, reference, lengths = inputs([[math.log(2), 0.0, math.log(3)]])
    policy.requires_grad_()
    MultiNegative(1.0)(policy, reference, lengths).loss.sum().backward()
    assert policy.grad is not None
    assert policy.grad[0].tolist() == pytest.approx([-2 / 3, 1 / 6, 1 / 2], abs=1e-12)


def test_label_smoothing_by_hand() -> None:
    # βz = 2, ε = 0.1: 0.9 · log(1 + e^−2) + 0.1 · log(1 + e^2) = 0.9 · 0.1269280110 + 0.1 · 2.1269280110
    assert loss_of(DPO(0.5, label_smoothing=0.1), [[3.0, -1.0]]).item() == pytest.approx(0.3269280110, abs=1e-9)


def test_robust_by_hand() -> None:
    # (0.9 · 0.1269280110 − 0.1 · 2.1269280110) / 0.8 = −0.0984280110…/0.8
    expected = (0.9 * 0.1269280110 - 0.1 * 2.1269280110) / 0.8
    assert loss_of(Robust(0.5, label_smoothing=0.1), [[3.0, -1.0]]).item() == pytest.approx(expected, abs=1e-9)


def test_ipo_by_hand() -> None:
    # lengths 4 and 5: 3/4 − (−1)/5 = 0.95; target 1/(2·0.5) = 1; (−0.05)² = 0.0025
    assert loss_of(IPO(0.5), [[3.0, -1.0]]).item() == pytest.approx(0.0025, abs=1e-12)


def test_hinge_by_hand_and_its_rest_beyond_a_margin_of_one() -> None:
    assert loss_of(Hinge(0.1), [[3.0, -1.0]]).item() == pytest.approx(0.6, abs=1e-12)
    assert loss_of(Hinge(1.0), [[3.0, -1.0]]).item() == 0.0


def test_the_three_norms_of_stic_by_hand() -> None:
    policy, reference, lengths = torch.tensor([[-8.0, -6.0]]), torch.tensor([[-9.0, -7.0]]), torch.tensor([[4, 3]])
    base = math.log(2)  # both log-ratios are 1

    def loss(alpha: float, norm: str) -> float:
        return part(Stic, 0.1, alpha=alpha, norm=norm)(policy, reference, lengths).loss.item()  # type: ignore[arg-type]

    assert loss(0.5, "sum") == pytest.approx(base + 0.5 * 8, abs=1e-6)
    assert loss(0.5, "per_token") == pytest.approx(base + 0.5 * 2, abs=1e-6)
    assert loss(1.0, "const") == pytest.approx(base + 8 / 1024, abs=1e-6)
    assert part(Stic)(policy, reference, lengths).loss.item() == pytest.approx(
        loss(1.0, "const"), abs=1e-6
    )  # as released


def test_stic_stands_on_any_preference_objective() -> None:
    given = inputs([[3.0, -1.0]])
    alone, both = Hinge(0.1)(*given), part(Stic, alpha=0.25, base=Hinge(0.1))(*given)
    assert both.loss.item() == pytest.approx(alone.loss.item() + 0.25 * 17.0, abs=1e-12)
    assert both.metrics["loss/preference"].item() == pytest.approx(0.6)
    assert both.metrics["loss/nll"].item() == pytest.approx(17.0)


def test_fine_tuning_on_the_chosen_needs_no_reference_and_no_rejected() -> None:
    policy, lengths = torch.tensor([[-8.0], [-3.0]]), torch.tensor([[4], [3]])
    assert part(NLL)(policy, None, lengths).loss.tolist() == [2.0, 1.0]
    assert part(NLL, norm="sum")(policy, None, lengths).loss.tolist() == [8.0, 3.0]
    assert not NLL.needs_reference


def test_a_weighted_list_is_the_weighted_sum_in_either_spelling() -> None:
    given = inputs([[3.0, -1.0], [0.0, 2.0]])
    parts = [DPO(0.3), part(NLL)]
    expected = 0.8 * parts[0](*given).loss + 0.2 * parts[1](*given).loss
    pairs = Weighted([(0.8, parts[0]), (0.2, parts[1])])
    mappings = Weighted([{"weight": 0.8, "objective": parts[0]}, {"weight": 0.2, "objective": parts[1]}])
    assert torch.allclose(pairs(*given).loss, expected, atol=1e-14)
    assert torch.equal(pairs(*given).loss, mappings(*given).loss)
    assert pairs.needs_reference and not Weighted([(1, part(NLL))]).needs_reference
    assert pairs.beta == 0.3  # rewards are shown with it


def test_a_term_for_one_kind_is_zero_for_pairs_of_others_and_its_mean_stays_over_all() -> None:
    policy, reference = torch.tensor([[-3.0, -4.0], [-5.0, -4.0]]), torch.tensor([[-4.0, -4.0], [-4.0, -4.0]])
    lengths = torch.full((2, 2), 2)
    both = Weighted([{"weight": 1.0, "objective": DPO(0.5)}, {"weight": 2.0, "objective": part(NLL), "kinds": ["des"]}])
    plain = DPO(0.5)(policy, reference, lengths).loss
    made = both(policy, reference, lengths, ["gen", "des"])
    assert torch.allclose(made.loss - plain, torch.tensor([0.0, 2.0 * 5.0 / 2]))
    assert made.metrics["loss/1_nll"].tolist() == [0.0, 2.5]
    with pytest.raises(ValueError, match="for pairs of kind des, and the batch does not say"):
        both(policy, reference, lengths)


@pytest.mark.parametrize(
    "objective", PAIR_OBJECTIVES + ANY_K + [part(NLL), Weighted([(0.8, DPO(0.3)), (0.2, part(NLL))])], ids=repr
)
def test_gradients_agree_with_finite_differences(objective: Objective) -> None:
    policy, reference, lengths = inputs([[0.4, -0.3], [-1.2, 0.9], [0.1, 0.2]])
    policy.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: objective(p, reference, lengths).loss, (policy,))


@pytest.mark.parametrize("objective", ANY_K, ids=repr)
def test_gradients_agree_with_finite_differences_for_several_negatives(objective: Objective) -> None:
    policy, reference, lengths = inputs([[0.4, -0.3, 1.0, 0.0], [-1.2, 0.9, -2.0, 0.3]])
    policy.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: objective(p, reference, lengths).loss, (policy,))


@pytest.mark.parametrize("objective", PAIR_OBJECTIVES + ANY_K, ids=repr)
@pytest.mark.parametrize("size", [1e3, 1e6, 1e12])
def test_extreme_log_probs_give_finite_losses_and_gradients(objective: Objective, size: float) -> None:
    policy = torch.tensor([[-size, 0.0], [0.0, -size], [-size, -size]], requires_grad=True)
    output = objective(policy, torch.tensor([[0.0, -size], [-size, 0.0], [0.0, 0.0]]), torch.tensor([[4, 5]] * 3))
    output.loss.sum().backward()
    assert output.loss.isfinite().all()
    assert policy.grad is not None and policy.grad.isfinite().all()


@pytest.mark.parametrize("objective", PAIR_OBJECTIVES, ids=repr)
def test_what_is_defined_for_pairs_is_refused_for_more(objective: Objective) -> None:
    with pytest.raises(ValueError, match="one rejected response and got 3.*multi_negative.*num_negatives=1"):
        objective(*inputs([[0.0, 0.0, 0.0, 0.0]]))


def test_stic_on_a_pair_objective_is_refused_for_more() -> None:
    with pytest.raises(ValueError, match="IPO is defined for one rejected response"):
        part(Stic, base=part(IPO))(*inputs([[0.0, 0.0, 0.0]]))


def test_wrong_shapes_and_a_missing_reference_are_named() -> None:
    policy, reference, lengths = inputs([[0.0, 0.0]])
    with pytest.raises(ValueError, match="needs .*chosen first"):
        part(DPO)(policy[0], reference[0], lengths[0])
    with pytest.raises(ValueError, match="lengths of shape"):
        part(DPO)(policy, reference, lengths[:, :1])
    with pytest.raises(ValueError, match="reference log-probs of shape"):
        part(DPO)(policy, reference[:, :1], lengths)
    with pytest.raises(ValueError, match="compares with a reference and got none"):
        part(DPO)(policy, None, lengths)
    with pytest.raises(ValueError, match="K ≥ 1"):
        part(MultiNegative)(policy[:, :1], reference[:, :1], lengths[:, :1])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DPO(beta=0), "beta=0 "),
        (lambda: MultiNegative(beta=-1), "beta=-1 "),
        (lambda: IPO(beta=float("nan")), "beta=nan"),
        (lambda: Hinge(beta=float("inf")), "beta=inf"),
        (lambda: part(DPO, label_smoothing=0.5), "label_smoothing=0.5"),
        (lambda: Robust(0.1, label_smoothing=-0.1), "label_smoothing=-0.1"),
        (lambda: part(Stic, alpha=0), "alpha=0"),
        (lambda: part(Stic, norm="mean"), "norm='mean'.*sum, per_token, const"),  # type: ignore[arg-type]
        (lambda: part(NLL, constant=0), "constant=0"),
        (lambda: EXO(0.1, label_smoothing=0), "label_smoothing=0 .*above 0 and below 0.5"),
        (lambda: DiscoPOP(0.1, tau=0), "tau=0"),
        (lambda: SimPO(gamma=-1, beta=2.0), "gamma=-1"),
        (lambda: CPO(0.1, alpha=float("nan")), "alpha=nan"),
        (lambda: ORPO(weight=-0.1), "weight=-0.1"),
        (lambda: part(FDivergence, "kl"), "divergence='kl'.*forward_kl"),  # type: ignore[arg-type]
        (lambda: part(FDivergence, alpha=1), "alpha=1 "),
        (lambda: Weighted([]), "a list of 1 or more"),
        (lambda: Weighted([(1.0, "dpo")]), "'dpo'.*a number, then a mapping with a `_target_`"),
        (lambda: Weighted([(float("nan"), part(DPO))]), "nan.*a number, then"),
    ],
)
def test_values_out_of_range_are_refused_by_name(make, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        make()


def test_metrics_carry_the_names_users_know() -> None:
    # β = 0.5; pair 1: ρ = (2, −1, 0.5), pair 2: ρ = (−1, 3, −2)
    metrics = MultiNegative(0.5)(*inputs([[2.0, -1.0, 0.5], [-1.0, 3.0, -2.0]])).metrics
    assert metrics["rewards/chosen"].tolist() == pytest.approx([1.0, -0.5])
    assert metrics["rewards/rejected"].tolist() == pytest.approx([-0.125, 0.25])  # means over the two
    assert metrics["rewards/margins"].tolist() == pytest.approx([1.125, -0.75])
    assert metrics["rewards/accuracies"].tolist() == pytest.approx([1.0, 0.5])
    assert metrics["likelihood_displacement"].tolist() == [0.0, 1.0]
    assert metrics["logps/chosen"].tolist() == pytest.approx([-18.0, -21.0])
    assert metrics["logps/rejected"].tolist() == pytest.approx([-20.25, -19.5])


def test_half_precision_log_probs_are_worked_on_in_float32() -> None:
    policy, reference, lengths = (value.bfloat16() for value in inputs([[3.0, -1.0]]))
    assert DPO(0.1)(policy, reference, lengths).loss.dtype == torch.float32


def test_the_reference_gets_no_gradient() -> None:
    policy, reference, lengths = inputs([[0.4, -0.3]])
    reference.requires_grad_()
    assert not part(DPO)(policy, reference, lengths).loss.requires_grad


def test_every_objective_is_reachable_by_its_short_name() -> None:
    for name in set(objectives.__all__) - {"ObjectiveOutput"}:
        assert issubclass(getattr(objectives, name), Objective)
