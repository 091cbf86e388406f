"""`trainer.find_batch_size`: the search finds the largest size that fits and leaves everything as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_modules.callbacks.find_batch_size import FindBatchSize, search
from lightning_modules.dpo import DPOModule
from lightning_modules.objectives import DPO
from tests.lightning_modules.tiny_steps import OPTIM, fit, pair_batch, step_batch, trained_state


@given(st.integers(0, 200), st.integers(1, 200), st.integers(1, 200))
def test_the_search_finds_the_largest_size_to_an_eighth(limit: int, guess: int, most: int) -> None:
    asked: list[int] = []

    def fits(size: int) -> bool:
        asked.append(size)
        return size <= limit

    good, bad = search(fits, min(guess, most), most)
    assert all(1 <= size <= most for size in asked) and len(asked) <= 20
    best = min(limit, most)
    assert good <= best and (good == 0) == (best == 0)
    if bad is None:
        assert good == most
    else:
        assert bad > limit and bad - good <= max(1, good // 8)


def module_of(policy: Any, steps: int, **more: Any) -> DPOModule:
    return DPOModule(policy, DPO(beta=0.1), OPTIM, reference_mode="live", total_steps=steps, **more)


def test_a_fit_with_the_search_is_the_fit_without_it(new_policy: Any, tmp_path: Path) -> None:
    used: list[int] = []
    ends, metrics = [], []
    for find in (True, False):
        policy = new_policy()
        callback = FindBatchSize(
            lambda size, policy=policy: pair_batch(policy, [n % 8 for n in range(size)]), guess=4, most=4, moments=0,
            use=used.append,
        )  # fmt: skip
        module = module_of(policy, 2, activation_checkpointing=True)
        torch.manual_seed(5)
        steps = [step_batch(policy, range(4), 2), step_batch(policy, range(4, 8), 2)]
        metrics.append(fit(module, steps, tmp_path / str(find), callbacks=[callback] if find else []))
        ends.append(trained_state(policy))
        if find:
            assert callback.found == used[0] and 1 <= used[0] <= 4 and len(used) == 1
            assert all(trial.fits and trial.seconds > 0 for trial in callback.trials)
            assert callback.as_data()["pairs"] == callback.found and callback.reason
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert metrics[0] == metrics[1]


def test_weights_gradients_modes_and_random_numbers_are_left_as_they_were(new_policy: Any, tmp_path: Path) -> None:
    import pytorch_lightning as pl

    policy = new_policy()
    seen: dict[str, Any] = {}

    class Around(pl.Callback):
        def __init__(self, key: str) -> None:
            self.key = key

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            if self.key == "before":
                for parameter in pl_module.trained():
                    parameter.grad = torch.full_like(parameter, 0.5)
            seen[self.key] = {
                "weights": [p.detach().clone() for p in pl_module.network.parameters()],
                "gradients": [p.grad.clone() for p in pl_module.trained()],
                "state": str(pl_module.optimizers().state_dict()["state"]),
                "modes": [m.training for m in pl_module.network.modules()],
                "random": torch.get_rng_state(),
            }

    find = FindBatchSize(lambda size: pair_batch(policy, range(size)), guess=2, most=2, moments=0, use=lambda _: None)
    around = [Around("before"), find, Around("after")]
    fit(module_of(policy, 1), [step_batch(policy, range(4), 2)], tmp_path, callbacks=around)
    before, after = seen["before"], seen["after"]
    for kind in ("weights", "gradients"):
        assert all(torch.equal(a, b) for a, b in zip(before[kind], after[kind], strict=True))
    assert before["state"] == after["state"] and before["modes"] == after["modes"]
    assert torch.equal(before["random"], after["random"])


def test_a_size_that_runs_out_of_memory_does_not_fit_and_other_errors_are_raised(
    new_policy: Any, tmp_path: Path
) -> None:
    policy = new_policy()

    def greedy(size: int) -> Any:
        if size > 1:
            policy_score = policy.score
            policy.score = lambda batch, *_: (
                torch.empty(2**60, dtype=torch.uint8) if len(batch) > 1 else policy_score(batch)
            )
        return pair_batch(policy, range(size))

    find = FindBatchSize(greedy, guess=4, most=4, moments=0, use=lambda _: None)
    fit(module_of(policy, 1), [step_batch(policy, range(1), 1)], tmp_path / "a", callbacks=[find])
    assert find.found == 1 and find.reason == "2 did not fit"

    def broken(size: int) -> Any:
        raise RuntimeError("the picture is upside down")

    find = FindBatchSize(broken, guess=4, most=4, moments=0, use=lambda _: None)
    with pytest.raises(RuntimeError, match="upside down"):
        fit(module_of(new_policy(), 1), [step_batch(policy, range(1), 1)], tmp_path / "b", callbacks=[find])
