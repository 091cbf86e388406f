"""`DPOModule` on a real tiny LLaVA with LoRA: what must not change its steps, and what must."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lightning_modules.dpo import DPOModule
from lightning_modules.objectives import DPO, MultiNegative, Objective, Stic
from lightning_modules.tuning import TrainingDiverged
from parallax.models.batch import PairBatch, StepBatch
from parallax.models.policy import Policy
from tests.faults import Injected
from tests.lightning_modules.tiny_steps import OPTIM, NewPolicy, fit, pair_batch, step_batch, trained_state
from tests.parts import part


def module_for(policy: Policy, objective: Objective | None = None, **settings) -> DPOModule:  # type: ignore[no-untyped-def]
    given = {"reference_mode": "live", "total_steps": 3, "optim": OPTIM, **settings}
    return DPOModule(policy, objective or DPO(0.1), given.pop("optim"), **given)


def with_reference(policy: Policy, batch: PairBatch) -> PairBatch:
    with torch.no_grad(), policy.reference():
        batch.reference_log_probs = policy.score(batch.scoring).total
    return batch


@pytest.mark.parametrize("negatives", [1, 3])
@pytest.mark.parametrize("mode", ["live", "cached"])
def test_the_first_step_costs_ln_of_the_number_of_responses(
    new_policy: NewPolicy, tmp_path: Path, negatives: int, mode: str
) -> None:
    policy = new_policy()
    step = step_batch(policy, range(4), 2, negatives)
    if mode == "cached":
        step.micro_batches = [with_reference(policy, batch) for batch in step.micro_batches]
    (metrics,) = fit(module_for(policy, MultiNegative(0.1), reference_mode=mode, total_steps=1), [step], tmp_path)
    assert metrics["train/loss"] == pytest.approx(math.log(1 + negatives), abs=1e-7)
    assert metrics["train/rewards/chosen"] == metrics["train/rewards/margins"] == 0.0


def test_micro_batching_does_not_change_the_trajectory(new_policy: NewPolicy, tmp_path: Path) -> None:
    results = []
    for micro in (6, 4, 1):  # 4 leaves a smaller micro-batch of 2 at the end
        policy = new_policy(dtype="float64")  # Adam turns rounding noise of tiny gradients into steps
        steps = [step_batch(policy, range(start, start + 6), micro, 2) for start in (0, 3, 1)]
        metrics = fit(
            module_for(policy, part(Stic, 0.1, alpha=0.1, norm="per_token")), steps, tmp_path, precision="64-true"
        )
        results.append((metrics, trained_state(policy)))
    (whole, weights), *others = results
    assert whole[0]["train/loss"] != pytest.approx(whole[2]["train/loss"], abs=1e-3)  # something was learned
    for metrics, other_weights in others:
        for expected, got in zip(whole, metrics, strict=True):
            assert got == pytest.approx(expected, rel=1e-7, abs=1e-9)
        for name, value in weights.items():
            assert torch.allclose(value, other_weights[name], atol=1e-9), name


def test_a_step_that_does_not_fit_is_made_in_halves_and_the_size_is_kept(
    new_policy: NewPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, tried = [], []
    losses = DPOModule.losses

    def with_little_memory(self: DPOModule, batch: PairBatch):  # type: ignore[no-untyped-def]
        tried.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return losses(self, batch)

    for memory in ("enough", "little"):
        policy = new_policy(dtype="float64")
        module = module_for(policy)
        found.append(
            fit(
                module,
                [step_batch(policy, range(n, n + 6), 6) for n in (0, 3, 1)],
                tmp_path / memory,
                precision="64-true",
            )
        )
        monkeypatch.setattr(DPOModule, "losses", with_little_memory)
    for whole, halved in zip(*found, strict=True):
        assert halved == pytest.approx(whole, rel=1e-7, abs=1e-9)
    assert tried == [6, 3, 1, 2, 1, 2, *[1, 2, 1, 2] * 2]
    assert module.pairs_at_once.most == 2


def test_a_cached_reference_gives_the_steps_of_a_live_one(new_policy: NewPolicy, tmp_path: Path) -> None:
    live, cached = new_policy(), new_policy()
    steps = [step_batch(live, range(start, start + 4), 2) for start in (0, 2, 4)]
    live_metrics = fit(module_for(live), steps, tmp_path)
    for step in steps:
        step.micro_batches = [with_reference(cached, batch) for batch in step.micro_batches]
    cached_metrics = fit(module_for(cached, reference_mode="cached"), steps, tmp_path)
    assert cached_metrics == live_metrics
    assert all(torch.equal(value, trained_state(cached)[name]) for name, value in trained_state(live).items())


def test_training_widens_the_margin_and_leaves_everything_but_the_adapter_alone(
    new_policy: NewPolicy, tmp_path: Path
) -> None:
    policy = new_policy()
    before = {name: value.detach().clone() for name, value in policy.model.named_parameters()}
    module = module_for(policy, total_steps=20, optim=replace(OPTIM, scheduler="constant"))
    metrics = fit(module, [step_batch(policy, range(4), 4)] * 20, tmp_path)
    assert metrics[-1]["train/rewards/margins"] > 0.5
    assert metrics[-1]["train/rewards/accuracies"] == 1
    assert metrics[-1]["train/loss"] < 0.5 < metrics[0]["train/loss"]
    for name, value in policy.model.named_parameters():
        if value.requires_grad:
            assert "lora" in name and "language_model" in name
        else:
            assert torch.equal(value, before[name]), name


def test_metrics_of_a_step_are_means_over_all_its_pairs(new_policy: NewPolicy, tmp_path: Path) -> None:
    policy = new_policy()
    step = step_batch(policy, range(5), 2)
    (metrics,) = fit(module_for(policy, total_steps=1, optim=replace(OPTIM, lr=1e-9)), [step], tmp_path)
    with torch.no_grad():
        scores = policy.score(pair_batch(policy, range(5)).scoring)
    assert metrics["train/logps/chosen"] == pytest.approx(scores.total[:, 0].mean().item(), rel=1e-5)
    assert metrics["train/logps/rejected"] == pytest.approx(scores.total[:, 1].mean().item(), rel=1e-5)
    assert metrics["train/tokens"] == scores.counts.sum().item()
    assert metrics["train/lr"] == 1e-9
    assert set(metrics) == {
        f"train/{name}"
        for name in (
            "loss", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen",
            "logps/rejected", "reference_per_token/chosen",
            "reference_per_token/rejected", "likelihood_displacement", "grad_norm", "lr", "tokens",
        )
    }  # fmt: skip


def test_clipping_bounds_the_gradient_and_the_norm_before_it_is_logged(new_policy: NewPolicy, tmp_path: Path) -> None:
    seen: dict[float | None, list[torch.Tensor]] = {}
    norms = []
    for clip in (None, 1e-3):
        policy = new_policy()
        module = module_for(policy, total_steps=1, clip=clip)
        original = module.on_before_optimizer_step

        def spy(optimizer, original=original, policy=policy, clip=clip):  # type: ignore[no-untyped-def]
            original(optimizer)
            seen[clip] = [p.grad.clone() for _, p in policy.trainable_parameters() if p.grad is not None]

        module.on_before_optimizer_step = spy  # type: ignore[method-assign]
        (metrics,) = fit(module, [step_batch(policy, range(4), 2)], tmp_path)
        norms.append(metrics["train/grad_norm"])
    norm = {clip: torch.stack([g.norm() for g in gradients]).norm().item() for clip, gradients in seen.items()}
    assert norms[0] == norms[1] == pytest.approx(norm[None], rel=1e-5)
    assert norm[None] > 1e-2 and norm[1e-3] == pytest.approx(1e-3, rel=1e-3)


def test_lora_dropout_is_off_while_preferences_are_tuned(new_policy: NewPolicy, tmp_path: Path) -> None:
    lora = {"r": 4, "alpha": 8, "dropout": 0.5, "targets": "language", "enabled": True}
    results = []
    for settings in (lora, {**lora, "dropout": 0.0}):
        policy = new_policy(settings)
        results.append(fit(module_for(policy), [step_batch(policy, range(4), 2)] * 3, tmp_path))
    assert results[0] == results[1]


def test_activation_checkpointing_changes_nothing_but_memory(new_policy: NewPolicy, tmp_path: Path) -> None:
    results = []
    for on in (False, True):
        policy = new_policy()
        steps = [step_batch(policy, range(4), 2)] * 2
        metrics = fit(module_for(policy, total_steps=2, activation_checkpointing=on), steps, tmp_path)
        results.append(metrics)
        assert not policy.model.training
    for plain, checkpointed in zip(*results, strict=True):
        assert checkpointed == pytest.approx(plain, rel=1e-5, abs=1e-6)


def test_full_fine_tuning_compares_with_the_weights_it_began_with(new_policy: NewPolicy, tmp_path: Path) -> None:
    policy = new_policy(None)
    metrics = fit(module_for(policy, optim=replace(OPTIM, lr=1e-3)), [step_batch(policy, range(4), 2)] * 3, tmp_path)
    assert metrics[0]["train/loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert metrics[-1]["train/rewards/margins"] > 0.01


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precisions_train_and_begin_at_ln_2(new_policy: NewPolicy, tmp_path: Path, precision: str) -> None:
    policy = new_policy()
    metrics = fit(
        module_for(policy, total_steps=4), [step_batch(policy, range(4), 2)] * 4, tmp_path, precision=precision
    )
    assert metrics[0]["train/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert metrics[-1]["train/loss"] < 0.69


def test_mixed_precision_keeps_what_learns_in_float32(new_policy: NewPolicy, tmp_path: Path) -> None:
    policy = new_policy(dtype="bfloat16")
    fit(module_for(policy, total_steps=1), [step_batch(policy, range(2), 2)], tmp_path, precision="bf16-mixed")
    assert {value.dtype for _, value in policy.trainable_parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw_8bit", "paged_adamw"])
def test_bitsandbytes_optimisers_train(new_policy: NewPolicy, tmp_path: Path, name: str) -> None:
    policy = new_policy()
    optim = replace(OPTIM, name=name)
    metrics = fit(module_for(policy, total_steps=4, optim=optim), [step_batch(policy, range(4), 4)] * 4, tmp_path)
    assert metrics[-1]["train/loss"] < metrics[0]["train/loss"] - 0.05


class Broken(DPO):
    """Not a number for the first pair of every micro-batch whose answers are long."""

    def losses(self, policy, reference, lengths):  # type: ignore[no-untyped-def]
        loss, metrics = super().losses(policy, reference, lengths)
        return loss + torch.zeros_like(loss).masked_fill(lengths[:, 0] > 20, float("nan")), metrics


def test_a_step_with_a_loss_that_is_no_number_is_left_out_and_named(
    new_policy: NewPolicy, tmp_path: Path, injected: Injected
) -> None:
    policy = new_policy()
    good, bad = step_batch(policy, [0, 1], 1), step_batch(policy, [0, 3], 1)  # answer 3 is the long one
    assert bad.micro_batches[1].lengths[0, 0] > 20
    module = module_for(policy, Broken(0.1))
    before = trained_state(policy)
    metrics = fit(module, [bad, good, good], tmp_path)
    assert [entry.pair_ids for entry in module.bad_steps] == [["pair-3"]]
    told = json.loads((tmp_path / "bad_steps" / "step-000000.json").read_text())
    assert told["reason"] == "the loss is not a finite number" and told["pair_ids"] == ["pair-3"]
    (pair,) = told["pairs"]
    assert pair["pair_id"] == "pair-3" and len(pair["responses"]) == 2 and all(pair["responses"])
    (kept,) = torch.load(tmp_path / "bad_steps" / "step-000000.pt", weights_only=True)
    assert kept["pair_ids"] == ["pair-3"] and torch.equal(
        kept["response_ids"], bad.micro_batches[1].scoring.response_ids
    )
    assert math.isnan(metrics[0]["train/loss"]) and metrics[1]["train/loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert metrics[2]["train/loss"] < metrics[1]["train/loss"]
    assert any(not torch.equal(value, before[name]) for name, value in trained_state(policy).items())
    assert all(value.isfinite().all() for value in trained_state(policy).values())
    injected("loss that is no finite number", told=1, says="the step is left out, named and kept for inspection")


def test_too_many_bad_steps_stop_the_run_and_name_the_pairs(
    new_policy: NewPolicy, tmp_path: Path, injected: Injected
) -> None:
    policy = new_policy()
    bad = step_batch(policy, [0, 3], 1)
    with pytest.raises(TrainingDiverged, match=r"3 steps gave .* 2 are allowed.*pair-3.*optim\.lr"):
        fit(module_for(policy, Broken(0.1), max_bad_steps=2, total_steps=5), [bad] * 5, tmp_path)
    injected(
        "loss that is no finite number", told=3, says="past trainer.max_bad_steps the run stops and names the pairs"
    )


def test_micro_batches_of_weight_zero_do_not_count(new_policy: NewPolicy, tmp_path: Path) -> None:
    results = []
    for filled in (False, True):
        policy = new_policy()
        step = step_batch(policy, range(4), 2)
        if filled:
            filler = pair_batch(policy, [6])
            filler.weight = 0.0
            step.micro_batches.append(filler)
        results.append((fit(module_for(policy, total_steps=1), [step], tmp_path), trained_state(policy)))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(value, results[1][1][name]) for name, value in results[0][1].items())


def test_a_step_that_miscounts_its_pairs_is_refused(new_policy: NewPolicy, tmp_path: Path) -> None:
    policy = new_policy()
    step = step_batch(policy, range(4), 2)
    wrong = StepBatch(step.micro_batches, 8)
    with pytest.raises(ValueError, match="says it has 8 pairs and brought 4"):
        fit(module_for(policy, total_steps=1), [wrong], tmp_path)


def test_missing_reference_log_probs_are_asked_for(new_policy: NewPolicy, tmp_path: Path) -> None:
    policy = new_policy()
    with pytest.raises(ValueError, match=r"pair-0.*without reference log-probs.*reference\.mode=live"):
        fit(module_for(policy, reference_mode="cached", total_steps=1), [step_batch(policy, range(2), 2)], tmp_path)
