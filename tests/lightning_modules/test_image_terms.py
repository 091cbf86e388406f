"""Objectives with further columns, written out by hand; running means; and what a fit makes of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from augment.diffusion import Diffusion
from augment.occlusion import Black, Crop
from augment.view import Identity
from lightning_modules.dpo import DPOModule
from lightning_modules.objectives import (
    BCO,
    DDPO,
    DPO,
    LDDPO,
    MDPO,
    NLL,
    Anchor,
    CHiP,
    ImageTerm,
    Objective,
    Stic,
    SymMPO,
    Weighted,
)
from parallax.models.batch import PairBatch, StepBatch
from parallax.models.policy import Policy
from parallax.records import ViewSpec
from tests.lightning_modules.tiny_steps import OPTIM, NewPolicy, fit, look_batch, pair_batch, trained_state
from tests.parts import part

LN2, VIEW = math.log(2), part(Crop)


def given(ratios: Sequence[float], reference: float = -20.0) -> tuple[Tensor, Tensor, Tensor]:
    wanted = torch.tensor([ratios], dtype=torch.float64)
    base = torch.full_like(wanted, reference)
    return base + wanted, base, torch.arange(4, 4 + len(ratios)).expand_as(wanted)


def cost(x: float) -> float:
    """−log σ(x)."""
    return math.log(1 + math.exp(-x))


# ρ_w = 3, ρ_l = −1, beside the corrupted image 0.5; β = 0.5.
BY_HAND: list[tuple[Objective, list[float], float]] = [
    (part(MDPO, VIEW, beta=0.5), [3, -1, 0.5], cost(2) + cost(1.25) + cost(1.5)),
    (
        part(MDPO, VIEW, beta=0.5, image_weight=2.0, anchor_weight=0.5, anchor=1.0),
        [3, -1, 0.5],
        cost(2) + 2 * cost(1.25) + 0.5 * cost(0.5),
    ),
    (
        part(MDPO, VIEW, beta=0.5, anchor_weight=0.0, side="rejected"),
        [3, -1, 0.5],
        cost(2) + cost(0.75),
    ),  # ρ_l(Ĩ) − ρ_l(I) = 1.5
    (
        part(MDPO, VIEW, beta=1.0, anchor_weight=0.0),
        [math.log(2), 0, math.log(3), math.log(2)],
        math.log(3) + LN2,
    ),  # K = 2
    (part(ImageTerm, VIEW, beta=0.5), [3, -1, 0.5], cost(1.25)),
    (Anchor(0.5, anchor=0.5), [3, -1], cost(1.0)),
    (part(CHiP, VIEW, beta=0.5), [3, -1, 0.5], cost(0.5 * (4 + 2.5))),
    (part(CHiP, VIEW, beta=0.5, image_weight=2.0), [3, -1, 0.5], cost(0.5 * (4 + 5))),
    (part(CHiP, VIEW, beta=0.5, image_weight=2.0, combine="sum"), [3, -1, 0.5], cost(2) + 2 * cost(1.25)),
    (
        SymMPO(
            0.5, pair_weight=0.5, anchor_weight=1.0, agreement_weight=0.0001
        ),  # beside image 1: w₁ 3, l₁ −1, w₂ 0.5; beside image 2: w₂ 1, w₁ −2: m₁ = 2.5, m₂ = 3
        [3, -1, 0.5, 1, -2],
        cost(2) + 0.5 * (cost(1.25) + cost(1.5)) + cost(1.5) + cost(0.5) + 1e-4 * 0.25,
    ),
]


@pytest.mark.parametrize(("objective", "ratios", "expected"), BY_HAND, ids=lambda value: repr(value)[:40])
def test_losses_by_hand(objective: Objective, ratios: list[float], expected: float) -> None:
    assert objective(*given(ratios)).loss.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("objective", "columns", "value"),
    [
        (part(MDPO, VIEW), 3, 3 * LN2),
        (part(CHiP, VIEW), 3, LN2),
        (SymMPO(0.1, 0.5, 1.0, 1e-4), 5, 4 * LN2),
        (part(BCO), 2, 2 * LN2),
        (part(ImageTerm, VIEW), 3, LN2),
    ],
)
def test_the_value_where_policy_and_reference_are_one(objective: Objective, columns: int, value: float) -> None:
    assert objective(*given([0.0] * columns)).loss.item() == pytest.approx(value, abs=1e-12)


WITH_LOOKS = [
    part(MDPO, VIEW),
    part(MDPO, VIEW, side="rejected"),
    part(CHiP, VIEW),
    part(CHiP, VIEW, combine="sum"),
    part(ImageTerm, VIEW),
    SymMPO(0.1, 0.5, 1.0, 1e-4),
]


@pytest.mark.parametrize("objective", WITH_LOOKS, ids=repr)
def test_gradients_agree_with_finite_differences(objective: Objective) -> None:
    policy, reference, lengths = given([0.4, -0.3, 0.2, -0.1, 0.7][: 2 + len(objective.looks)])
    policy.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: objective(p, reference, lengths).loss, (policy,))


@pytest.mark.parametrize("objective", WITH_LOOKS, ids=repr)
def test_rewards_are_those_of_the_pairs_own_answers(objective: Objective) -> None:
    metrics = objective(*given([3.0, -1.0, 9.0, 9.0, 9.0][: 2 + len(objective.looks)])).metrics
    assert metrics["rewards/margins"].item() == pytest.approx(objective.beta * 4)  # type: ignore[operator]
    assert metrics["logps/rejected"].item() == pytest.approx(-21.0)


def test_the_image_term_lifts_one_side_or_moves_the_other_alone() -> None:
    def gradient(objective: Objective) -> list[float]:
        policy, reference, lengths = given([0.0, 0.0, 0.0])
        policy.requires_grad_()
        objective(policy, reference, lengths).loss.sum().backward()
        assert policy.grad is not None
        return policy.grad[0].tolist()

    assert gradient(part(ImageTerm, VIEW, beta=1.0)) == pytest.approx([-0.5, 0, 0.5])
    assert gradient(part(ImageTerm, VIEW, beta=1.0, detach_clean=True)) == pytest.approx([0, 0, 0.5])
    assert gradient(ImageTerm(VIEW, beta=1.0, side="rejected")) == pytest.approx([0, 0.5, -0.5])


def test_terms_of_weight_zero_are_dpo_to_the_last_bit_and_look_at_nothing() -> None:
    policy, reference, lengths = (torch.randn(64, 2), torch.randn(64, 2), torch.full((64, 2), 5))
    plain = DPO(0.1)(policy, reference, lengths).loss
    for objective in (
        part(MDPO, VIEW, beta=0.1, image_weight=0.0, anchor_weight=0.0),
        part(CHiP, VIEW, beta=0.1, image_weight=0.0, segment_weight=1.0),
        part(DDPO, 0.1, 1.0),
        LDDPO(0.1, 1.0),
    ):
        assert objective.looks == ()
        assert torch.equal(objective(policy, reference, lengths).loss, plain), repr(objective)


def test_a_weighted_list_unites_looks_and_hands_each_term_its_own() -> None:
    noise = Diffusion(noise_steps=500)
    both = Weighted(
        [
            (1.0, DPO(0.5)),
            (0.5, part(ImageTerm, VIEW, beta=0.5)),
            (2.0, part(ImageTerm, noise, beta=0.5)),
            (1.0, part(MDPO, VIEW, beta=0.5)),
        ]
    )
    assert len(both.looks) == 2  # the crop is looked at once, for two terms
    mdpo = cost(2) + cost(1.25) + cost(1.5)
    expected = cost(2) + 0.5 * cost(1.25) + 2 * cost(0.5) + mdpo  # beside the noise the answer's ratio is 2
    assert both(*given([3, -1, 0.5, 2])).loss.item() == pytest.approx(expected, abs=1e-12)


def test_an_objective_that_stands_on_another_asks_for_what_that_asks() -> None:
    stic = part(Stic, alpha=0.25, base=part(MDPO, VIEW))
    assert len(stic.looks) == 1
    assert stic(*given([0, 0, 0])).loss.item() == pytest.approx(3 * LN2 + 0.25 * 20)
    with pytest.raises(ValueError, match="weigh tokens differently"):
        Weighted([(1.0, part(DPO)), (1.0, part(DDPO))])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: part(MDPO), "name a view"),
        (lambda: part(MDPO, VIEW, image_weight=-1), "image_weight=-1"),
        (lambda: part(ImageTerm, VIEW, side="both"), "side='both'"),  # type: ignore[arg-type]
        (lambda: part(CHiP, VIEW, combine="mean"), "combine='mean'"),  # type: ignore[arg-type]
        (lambda: LDDPO(0.1, alpha=1.5), "alpha=1.5"),
        (lambda: part(DDPO, gamma=0), "gamma=0"),
        (lambda: part(BCO, shift="mean"), "shift='mean'"),  # type: ignore[arg-type]
        (lambda: part(BCO, decay=1.0), "decay=1.0"),
        (lambda: part(MDPO, VIEW, side="rejected")(*given([0, 0, 0, 0])), "pairs.num_negatives=1"),
        (lambda: part(MDPO, VIEW)(*given([0, 0])), r"1 \+ K \+ 1 further columns"),
        (
            lambda: SymMPO(0.1, 0.5, 1.0, 1e-4)(*given([0] * 6)),
            "one rejected response and got 2",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_words(make, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        make()


# -- running means ---------------------------------------------------------------------------------------------------


def test_bco_by_hand_and_its_shift_lags_one_step() -> None:
    objective = part(BCO, 0.5)  # r = (1.5, −0.5): the mean over both sides is 0.5
    first = objective(*given([3, -1]))
    assert first.loss.item() == pytest.approx(cost(1.5) + cost(0.5))
    assert first.metrics["rewards/both_sides"].item() == pytest.approx(0.5)
    objective.after_step({"rewards/both_sides": 0.5})
    assert objective(*given([3, -1])).loss.item() == pytest.approx(cost(1.5 - 0.5) + cost(0.5 + 0.5))
    objective.after_step({"rewards/both_sides": -0.1})  # the mean of 0.5 and −0.1
    assert objective.state() == pytest.approx({"mean": 0.2, "steps": 2})
    assert BCO(0.5, shift="none")(*given([3, -1])).loss.item() == first.loss.item()


def test_a_decaying_mean_starts_at_the_first_step() -> None:
    objective = part(BCO, 0.5, decay=0.9)
    for value in (1.0, 2.0):
        objective.after_step({"rewards/both_sides": value})
    assert objective.state()["mean"] == pytest.approx(0.9 * 1 + 0.1 * 2)


def mpo() -> Weighted:
    return Weighted([(0.8, part(DPO)), (0.2, part(BCO)), (1.0, part(NLL))])


def test_mpo_costs_what_its_paper_says_and_its_state_goes_through_the_sum() -> None:
    objective = mpo()
    assert objective(*given([0, 0])).loss.item() == pytest.approx(1.2 * LN2 + 20 / 4)
    assert objective.kept == ("1/rewards/both_sides",)
    objective.after_step({"1/rewards/both_sides": 0.4})
    other = mpo()
    other.load_state(objective.state())
    assert other.terms[1][1].state() == {"mean": 0.4, "steps": 1.0}


# -- in a fit --------------------------------------------------------------------------------------------------------


def looked(policy: Policy, places: Sequence[int], view: ViewSpec) -> PairBatch:
    """Pairs with their chosen answers beside a view of their images."""
    return replace(pair_batch(policy, places), looks=[look_batch(policy, places, view)])


def fitted(
    policy: Policy, objective: Objective, view: ViewSpec, folder: Path, micro: int = 4, steps: int = 3
) -> list[dict[str, float]]:
    places = list(range(4))
    cuts = [places[start : start + micro] for start in range(0, 4, micro)]
    module = DPOModule(policy, objective, OPTIM, reference_mode="live", total_steps=steps)
    batches = [looked(policy, cut, view) if objective.looks else pair_batch(policy, cut) for cut in cuts]
    return fit(module, [StepBatch(batches, 4)] * steps, folder)


def test_beside_the_same_image_the_image_term_is_a_constant(new_policy: NewPolicy, tmp_path: Path) -> None:
    """The identity view: mDPO is DPO with an anchor."""
    one, other = new_policy(), new_policy()
    same = fitted(one, part(MDPO, Identity(), beta=0.5), ViewSpec(), tmp_path / "a")
    without = fitted(other, part(MDPO, Identity(), beta=0.5, image_weight=0.0), ViewSpec(), tmp_path / "b")
    assert [row["train/loss/image"] for row in same] == pytest.approx([LN2] * 3, abs=1e-5)
    assert same[-1]["train/loss"] - LN2 == pytest.approx(without[-1]["train/loss"], abs=1e-4)
    for name, value in trained_state(one).items():
        torch.testing.assert_close(value, trained_state(other)[name], atol=2e-4, rtol=1e-3)


def test_the_image_term_opens_a_margin_between_the_images_whatever_the_micro_batch(
    new_policy: NewPolicy, tmp_path: Path
) -> None:
    black = ViewSpec("black")
    whole, cut = new_policy(), new_policy()
    metrics = fitted(whole, part(MDPO, Black(), beta=0.5), black, tmp_path / "a")
    assert metrics[0]["train/loss"] == pytest.approx(3 * LN2, abs=1e-5)
    assert metrics[0]["train/image_margin"] == pytest.approx(0, abs=1e-4) and metrics[-1]["train/image_margin"] > 0
    fitted(cut, part(MDPO, Black(), beta=0.5), black, tmp_path / "b", micro=1)
    for name, value in trained_state(whole).items():
        torch.testing.assert_close(value, trained_state(cut)[name], atol=1e-5, rtol=1e-3)


def test_weights_of_one_are_dpo_to_the_last_bit_in_a_fit(new_policy: NewPolicy, tmp_path: Path) -> None:
    one, other = new_policy(), new_policy()
    plain = fitted(one, DPO(0.5), ViewSpec(), tmp_path / "a")
    policy_batch = pair_batch(other, range(4))
    weights = torch.ones(policy_batch.scoring.response_ids.shape)
    weighted = replace(policy_batch, scoring=replace(policy_batch.scoring, response_weights=weights))
    module = DPOModule(other, part(DDPO, 0.5, 1.0), OPTIM, reference_mode="live", total_steps=3)
    metrics = fit(module, [StepBatch([weighted], 4)] * 3, tmp_path / "b")
    assert [row["train/loss"] for row in metrics] == [row["train/loss"] for row in plain]
    assert all(torch.equal(value, trained_state(other)[name]) for name, value in trained_state(one).items())


def test_a_batch_without_the_looks_of_the_objective_is_refused(new_policy: NewPolicy, tmp_path: Path) -> None:
    policy = new_policy()
    module = DPOModule(policy, part(MDPO, VIEW), OPTIM, reference_mode="live", total_steps=1)
    with pytest.raises(ValueError, match="looks at 1 answers beside other images and the batch brings 0"):
        fit(module, [StepBatch([pair_batch(policy, [0])], 1)], tmp_path)


def test_a_running_mean_is_the_same_for_any_micro_batch_and_goes_on_after_a_resume(
    new_policy: NewPolicy, tmp_path: Path
) -> None:
    def run(folder: str, micro: int) -> DPOModule:
        policy = new_policy()
        module = DPOModule(policy, mpo(), OPTIM, reference_mode="live", total_steps=3)
        places = list(range(4))
        batches = [pair_batch(policy, places[start : start + micro]) for start in range(0, 4, micro)]
        fit(module, [StepBatch(batches, 4)] * 3, tmp_path / folder)
        return module

    whole, cut = run("a", 4), run("b", 1)
    state = whole.objective.state()
    assert state["1/steps"] == 3 and state["1/mean"] != 0
    assert cut.objective.state() == pytest.approx(state, rel=1e-3, abs=1e-5)
    whole.trainer.save_checkpoint(tmp_path / "step.ckpt")
    fresh = DPOModule(new_policy(), mpo(), OPTIM, reference_mode="live", total_steps=3)
    fresh.load_trained(tmp_path / "step.ckpt")
    assert fresh.objective.state() == state
