"""POVID's mixed objective by hand, and the column that training adds to it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lightning_modules.dpo import DPOModule, with_noisy_choice
from lightning_modules.objectives import DPO, Povid
from parallax.models.batch import ScoringBatch, StepBatch
from parallax.models.policy import Policy
from parallax.records import ViewSpec
from tests.lightning_modules.tiny_steps import OPTIM, NewPolicy, fit, look_batch, pair_batch
from tests.parts import part

NOISE = ViewSpec("diffusion", {"noise_steps": 900}, seed=4)


def noisy_look(policy: Policy) -> ScoringBatch:
    """The chosen answers of pairs 0 and 1 beside their noised images."""
    return look_batch(policy, [0, 1], NOISE)


def test_the_mixture_written_out() -> None:
    policy = torch.tensor([[-10.0, -12.0, -11.0]])
    reference = torch.tensor([[-11.0, -11.0, -10.5]])
    # ρ = (1, −1, −0.5); β = 0.5: β(ρ_w − ρ_text) = 1, β(ρ_w − ρ_noise) = 0.75
    text, noise = math.log(1 + math.exp(-1.0)), math.log(1 + math.exp(-0.75))
    output = part(Povid, beta=0.5)(policy, reference, torch.ones(1, 3, dtype=torch.long))
    assert output.loss.item() == pytest.approx(0.5 * text + 0.5 * noise, abs=1e-6)
    assert output.loss.item() == pytest.approx(0.5 * 0.313262 + 0.5 * 0.386871, abs=1e-5)
    assert output.metrics["loss/text"].item() == pytest.approx(text, abs=1e-6)
    other = Povid(beta=0.5, text_weight=2.0, noise_weight=0.0)(policy, reference, torch.ones(1, 3, dtype=torch.long))
    assert other.loss.item() == pytest.approx(2 * text, abs=1e-6)


def test_before_any_step_it_costs_the_sum_of_weights_times_ln_two() -> None:
    same = torch.tensor([[-3.0, -7.0, -5.0]])
    loss = Povid(0.1, 0.5, 0.5)(same, same, torch.ones(1, 3, dtype=torch.long)).loss
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)


def test_what_it_is_not_defined_for_is_refused() -> None:
    with pytest.raises(ValueError, match="got 2 columns"):
        part(Povid)(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="both 0"):
        Povid(0.1, 0.0, 0.0)
    with pytest.raises(ValueError, match="text_weight=-1"):
        part(Povid, 0.1, -1)


def test_the_added_column_is_what_the_policy_says_under_noise_scored_on_the_clean_image(new_policy: NewPolicy) -> None:
    policy = new_policy()
    batch = pair_batch(policy, [0, 1])
    look = noisy_look(policy)
    with pytest.raises(ValueError, match="the batch has none"):
        with_noisy_choice(policy, batch)
    wider = with_noisy_choice(policy, replace(batch, looks=[look]))
    assert wider.response_ids.shape[1] == 3 and wider.target_ids is not None
    assert torch.equal(wider.response_ids[:, 2], batch.scoring.response_ids[:, 0])
    assert torch.equal(wider.target_ids[:, :2], batch.scoring.response_ids)
    noisy = look.vision
    said = policy.choose(replace(batch.scoring, vision=noisy))[:, 0]
    assert torch.equal(wider.target_ids[:, 2], said)
    with torch.no_grad():
        three, two = policy.score(wider).total, policy.score(batch.scoring).total
        by_hand = policy.score(
            replace(batch.scoring, target_ids=policy.choose(replace(batch.scoring, vision=noisy)))
        ).total
    torch.testing.assert_close(three[:, :2], two)
    torch.testing.assert_close(three[:, 2], by_hand[:, 0])


def test_a_fit_moves_away_from_both(new_policy: NewPolicy, tmp_path: Path) -> None:
    policy = new_policy()
    steps = [StepBatch([replace(pair_batch(policy, [0, 1]), looks=[noisy_look(policy)])], 2) for _ in range(4)]
    module = DPOModule(policy, part(Povid, 0.5), OPTIM, reference_mode="live", total_steps=4)
    metrics = fit(module, steps, tmp_path)
    assert metrics[0]["train/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert metrics[-1]["train/loss/text"] < metrics[0]["train/loss/text"]
    assert metrics[-1]["train/rewards/margins"] > 0


def test_tokens_chosen_while_training_need_a_live_reference(new_policy: NewPolicy, tmp_path: Path) -> None:
    for objective, scorer in ((part(Povid), "label"), (part(DPO), "argmax_not_label")):
        with pytest.raises(ValueError, match="use reference=live"):
            DPOModule(new_policy(), objective, OPTIM, rejected_scorer=scorer, total_steps=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rejected_scorer='best'"):
        DPOModule(new_policy(), part(DPO), OPTIM, rejected_scorer="best", total_steps=1)  # type: ignore[arg-type]
    policy = new_policy()
    module = DPOModule(
        policy, part(DPO), OPTIM, reference_mode="live", rejected_scorer="argmax_not_label", total_steps=1
    )  # fmt: skip
    (metrics,) = fit(module, [StepBatch([pair_batch(policy, [0, 1])], 2)], tmp_path)
    assert metrics["train/loss"] == pytest.approx(math.log(2), abs=1e-6)  # policy and reference choose the same tokens
