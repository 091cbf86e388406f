"""Evaluation while training that chooses the best step and stops when nothing gets better."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lightning_modules.callbacks import BestStep, StepCheckpoints
from lightning_modules.dpo import DPOModule
from lightning_modules.objectives import DPO
from tests.lightning_modules.tiny_steps import OPTIM, NewPolicy, fit, step_batch

VALUES = {2: 0.5, 4: 0.8, 6: 0.7, 8: 0.6, 10: 0.9}


def trained(
    new_policy: NewPolicy, folder: Path, watch: BestStep, steps: int = 10
) -> tuple[DPOModule, StepCheckpoints, dict[int, torch.Tensor]]:
    policy = new_policy()
    module = DPOModule(policy, DPO(0.1), replace(OPTIM, scheduler="constant"), reference_mode="live", total_steps=steps)
    seen: dict[int, torch.Tensor] = {}
    measure = watch.act

    def act(step: int) -> dict[str, float]:
        seen[step] = torch.cat([p.detach().flatten().clone() for _, p in policy.trainable_parameters()])
        return dict(measure(step))

    watch.act = act
    keeper = StepCheckpoints(folder / "checkpoints")
    fit(module, [step_batch(policy, range(2), 2)] * steps, folder, callbacks=[watch, keeper])
    return module, keeper, seen


def weights(module: DPOModule) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for _, p in module.policy.trainable_parameters()])


def test_the_best_steps_weights_are_the_result_and_patience_stops_the_fit(
    new_policy: NewPolicy, tmp_path: Path
) -> None:
    watch = BestStep(2, lambda step: {"eval/x": VALUES[step]}, "eval/x", +1, patience=2)
    module, keeper, seen = trained(new_policy, tmp_path, watch)
    assert list(seen) == [2, 4, 6, 8] and watch.stopped and watch.best_step == 4
    assert [path.name for path in keeper.folder.glob("best-*.ckpt")] == ["best-000004.ckpt"]
    assert not torch.equal(weights(module), seen[4])
    told = watch.take_best(module, keeper, last=8)
    assert told == {"monitor": "eval/x", "value": 0.8, "step": 4, "stopped_early": True}
    assert torch.equal(weights(module), seen[4])


def test_without_patience_every_step_is_made_and_less_can_be_better(new_policy: NewPolicy, tmp_path: Path) -> None:
    watch = BestStep(2, lambda step: {"eval/x": VALUES[step]}, "eval/x", -1)
    _, _, seen = trained(new_policy, tmp_path, watch)
    assert list(seen) == [2, 4, 6, 8, 10] and not watch.stopped and (watch.best_step, watch.best) == (2, 0.5)
    again = BestStep(2, lambda step: {}, "eval/x", -1)
    again.load_state_dict(watch.state_dict())
    assert (again.best, again.best_step, again.waited) == (0.5, 2, 4)


def test_a_metric_that_is_not_measured_is_named(new_policy: NewPolicy, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="monitor names 'eval/y', and measured were eval/x"):
        trained(new_policy, tmp_path, BestStep(2, lambda step: {"eval/x": 1.0}, "eval/y", 1), steps=2)
