"""A fit that is stopped and goes on is the fit that never stopped: same losses to the last bit, same adapter."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.callbacks import StepCheckpoints, newest_checkpoint
from lightning_modules.callbacks.checkpoints import checkpoints_in, remove_later_than, step_of
from lightning_modules.dpo import DPOModule
from lightning_modules.objectives import BCO, DPO, Weighted
from lightning_modules.sft import SFTModule
from lightning_modules.step_stream import StepStream
from lightning_modules.trainer import make_trainer
from lightning_modules.tuning import TuningModule
from parallax.models.batch import StepBatch
from parallax.models.policy import Policy
from tests import typed
from tests.faults import Injected
from tests.lightning_modules.tiny_steps import (
    OPTIM,
    NewPolicy,
    Recorder,
    metrics_of_every_step,
    step_batch,
    trained_state,
)
from tests.parts import part

STEPS = 6


def dpo(policy: Policy) -> TuningModule:
    objective = Weighted([(0.8, DPO(0.1)), (0.2, part(BCO, 0.1))])  # one of which has a running mean in checkpoints
    return DPOModule(policy, objective, replace(OPTIM, warmup_steps=2), reference_mode="live", total_steps=STEPS)


def sft(policy: Policy) -> TuningModule:
    return SFTModule(policy, replace(OPTIM, lr=1e-3), total_steps=STEPS, seed=5)


def steps_for(policy: Policy, negatives: int) -> list[StepBatch]:
    return [step_batch(policy, [(3 * s + i) % 8 for i in range(4)], 3, negatives) for s in range(STEPS)]


def run(
    module: TuningModule,
    steps: Sequence[StepBatch],
    folder: Path,
    *,
    start: int = 0,
    stop: int = STEPS,
    resume: Path | None = None,
) -> list[dict[str, float]]:
    keep, keeper = metrics_of_every_step(), StepCheckpoints(folder, every_n_steps=2, keep=2)
    trainer = make_trainer(typed.trainer(accelerator="cpu"), folder=folder, callbacks=[keep, keeper], max_steps=stop)
    stream = StepStream(lambda epoch, first: Recorder(steps[first:]), len(steps), start=start, stop=stop)
    trainer.fit(module, train_dataloaders=stream, ckpt_path=resume, weights_only=True if resume else None)
    assert trainer.global_step == stop
    return keep.metrics  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("make", "negatives", "dropout"), [(dpo, 1, 0.0), (sft, 0, 0.3)], ids=["dpo", "sft with dropout"]
)
@pytest.mark.parametrize("stopped_at", [2, 4])
def test_a_resumed_fit_equals_an_uninterrupted_one(
    new_policy: NewPolicy,
    tmp_path: Path,
    make: Callable[[Policy], TuningModule],
    negatives: int,
    dropout: float,
    stopped_at: int,
) -> None:
    lora = {"r": 4, "alpha": 8, "dropout": dropout, "targets": "language", "enabled": True}
    whole = new_policy(lora)
    expected = run(make(whole), steps_for(whole, negatives), tmp_path / "whole")

    first = new_policy(lora)
    torch.manual_seed(99)  # what was drawn before must not matter
    before = run(make(first), steps_for(first, negatives), tmp_path / "cut", stop=stopped_at)
    again = new_policy(lora)
    resume = newest_checkpoint(tmp_path / "cut")
    assert resume is not None and step_of(resume) == stopped_at
    after = run(make(again), steps_for(again, negatives), tmp_path / "cut", start=stopped_at, resume=resume)

    assert before + after == expected
    for name, value in trained_state(whole).items():
        assert torch.equal(value, trained_state(again)[name]), name


def test_checkpoints_hold_what_is_trained_and_load_with_weights_only(new_policy: NewPolicy, tmp_path: Path) -> None:
    policy = new_policy()
    run(dpo(policy), steps_for(policy, 1), tmp_path, stop=2)
    content = torch.load(tmp_path / "step-000002.ckpt", weights_only=True)
    assert set(content["state_dict"]) == {f"network.{name}" for name, _ in policy.trainable_parameters()}
    assert content["global_step"] == 2
    trained = sum(value.numel() for _, value in policy.trainable_parameters())
    assert (
        tmp_path / "step-000002.ckpt"
    ).stat().st_size < 4 * 4 * trained + 300_000  # weights and two moments, no base


def test_only_the_newest_checkpoints_stay(new_policy: NewPolicy, tmp_path: Path) -> None:
    policy = new_policy()
    run(dpo(policy), steps_for(policy, 1), tmp_path)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step-000004.ckpt", "step-000006.ckpt"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".tmp-")]
    (tmp_path / ".tmp-step-000008.ckpt").write_bytes(b"a killed writer leaves this")
    remove_later_than(tmp_path, 4)
    assert not list(tmp_path.glob(".tmp-*")) and len(list(tmp_path.iterdir())) == 2  # the checkpoint and its digest
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step-000004.ckpt"]


def test_a_damaged_checkpoint_is_passed_over(
    new_policy: NewPolicy, tmp_path: Path, caplog: Any, injected: Injected
) -> None:
    policy = new_policy()
    run(dpo(policy), steps_for(policy, 1), tmp_path)
    newest, before = tmp_path / "step-000006.ckpt", tmp_path / "step-000004.ckpt"
    whole = newest.read_bytes()
    assert newest_checkpoint(tmp_path) == newest
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1  # loads like any other, with one weight a little off
    newest.write_bytes(flipped)
    assert newest_checkpoint(tmp_path) == before
    assert (
        "step-000006.ckpt cannot be read (its bytes are not those that were written); the checkpoint before"
        in caplog.text
    )
    newest.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "step-000006.ckpt.xxh128").unlink()  # as versions before this one left them
    assert newest_checkpoint(tmp_path) == before
    assert "step-000006.ckpt cannot be read (it is torn or no checkpoint)" in caplog.text
    assert newest_checkpoint(tmp_path / "nothing here") is None
    injected("torn or changed checkpoint", told=2, says="passed over in a sentence; the one before is used")


def test_a_checkpoint_of_another_adapter_is_refused(new_policy: NewPolicy, tmp_path: Path) -> None:
    policy = new_policy()
    run(dpo(policy), steps_for(policy, 1), tmp_path, stop=2)
    other = new_policy(None)
    with pytest.raises(ValueError, match=r"does not fit what is trained here.*model and lora settings"):
        run(dpo(other), steps_for(other, 1), tmp_path, start=2, resume=tmp_path / "step-000002.ckpt")


def test_the_stream_brings_each_step_of_its_segment_once() -> None:
    asked: list[tuple[int, int]] = []

    def epoch_loader(epoch: int, first: int) -> list[Any]:
        asked.append((epoch, first))
        return [f"{epoch}.{step}" for step in range(first, 3)]

    stream = StepStream(epoch_loader, 3, start=12, stop=17, origin=10, first_epoch=4)
    assert [sealed.step for sealed in stream] == ["4.2", "5.0", "5.1", "5.2", "6.0"]
    assert asked == [(4, 2), (5, 0), (6, 0)]
    assert len(stream) == 5


def test_a_stream_without_steps_says_so() -> None:
    with pytest.raises(ValueError, match="no pair was kept"):
        StepStream(lambda epoch, first: [], 0, start=0, stop=1)
    with pytest.raises(ValueError, match="do not lie in a segment that begins at 4"):
        StepStream(lambda epoch, first: [], 1, start=3, stop=5, origin=4)
    with pytest.raises(RuntimeError, match="brought nothing for epoch 0"):
        list(StepStream(lambda epoch, first: [], 1, start=0, stop=1))
