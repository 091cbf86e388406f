"""Memory in a whole fit: the line at its start, advice when it runs out, and the micro-batch that was found."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from parallax.models.memory.device_memory import DeviceMemory
from parallax.tasks.training import fit_stage
from tests import typed
from tests.faults import Injected
from tests.tasks.tiny_fits import STAGE, TRAINER, policy_and_pairs


def learned(policy: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in policy.trainable_parameters()}


class Recomputing(pl.Callback):
    """Whether the model recomputes activations while it is trained."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.on = any(getattr(part, "gradient_checkpointing", False) for part in pl_module.policy.model.modules())


def test_a_fit_begins_with_what_it_will_need(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    policy, datamodule = policy_and_pairs(tmp_path)
    with caplog.at_level(logging.INFO):
        summary = fit_stage(policy, datamodule, typed.stage(**STAGE), tmp_path / "stage")
    (line,) = [record.message for record in caplog.records if record.message.startswith("memory: ")]
    total = sum(p.numel() for p in policy.model.parameters())
    trained = sum(p.numel() for _, p in policy.trainable_parameters())
    memory = summary["memory"]
    assert (memory["parameters"], memory["trained"]) == (total, trained)
    assert f"2 rows of {memory['tokens_per_row']} tokens at a time" in line and "expected peak" in line
    assert 0 < memory["peak_bytes"] < memory["there_bytes"] and memory["savings_bytes"]
    assert summary["micro_batch"] is None
    json.dumps(summary["memory"])


def test_activations_are_recomputed_where_they_would_not_fit_and_only_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = {**STAGE, "trainer": {**TRAINER, "activation_checkpointing": "auto"}}
    weights = {}
    for place, free in (("roomy", 10**11), ("narrow", 10**5)):
        memory = DeviceMemory(free, 0, "a small card")
        monkeypatch.setattr("parallax.tasks.memory_forecast.device_memory", lambda device, memory=memory: memory)
        policy, datamodule = policy_and_pairs(tmp_path)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            seen = Recomputing()
            fit_stage(policy, datamodule, typed.stage(**stage), tmp_path / place, callbacks=[seen])
        said = [record.message for record in caplog.records if record.message.startswith("activations are recomputed")]
        assert bool(said) == (place == "narrow") == seen.on
        weights[place] = learned(policy)
    assert all(
        torch.allclose(value, weights["narrow"][name], rtol=0, atol=1e-6) for name, value in weights["roomy"].items()
    )


def test_a_found_micro_batch_gives_the_adapter_of_a_fixed_one(tmp_path: Path) -> None:
    trainer = {**TRAINER, "find_batch_size": True}
    policy, datamodule = policy_and_pairs(tmp_path, trainer=trainer)
    summary = fit_stage(policy, datamodule, typed.stage(**{**STAGE, "trainer": trainer}), tmp_path / "found")
    found = summary["micro_batch"]["pairs"]
    assert 1 <= found <= TRAINER["batch_size"] and datamodule.micro_batch_size == found
    assert summary["memory"]["rows"] == found  # one row per pair: the prompt is shared
    assert json.loads((tmp_path / "found" / "micro_batch.json").read_text())["pairs"] == found

    fixed = {**TRAINER, "micro_batch_size": found}
    other, again = policy_and_pairs(tmp_path, trainer=fixed)
    again.cache_dir = tmp_path / "another cache"  # its reference is scored anew
    fit_stage(other, again, typed.stage(**{**STAGE, "trainer": fixed}), tmp_path / "fixed")
    ours, theirs = learned(policy), learned(other)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_resumed_fit_takes_the_size_that_was_found_before(tmp_path: Path) -> None:
    trainer = {**TRAINER, "find_batch_size": True}
    stage = {**STAGE, "trainer": trainer}
    policy, datamodule = policy_and_pairs(tmp_path, trainer=trainer)
    fit_stage(policy, datamodule, typed.stage(**stage), tmp_path / "stage")
    (tmp_path / "stage" / "micro_batch.json").write_text('{"pairs": 3, "reason": "said before", "tried": []}')
    policy, datamodule = policy_and_pairs(tmp_path, trainer=trainer)
    checkpoint = tmp_path / "stage" / "checkpoints" / "step-000003.ckpt"
    summary = fit_stage(policy, datamodule, typed.stage(**stage), tmp_path / "stage", resume_from=checkpoint)
    assert summary["micro_batch"]["reason"] == "said before" and datamodule.micro_batch_size == 3


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux to know how much is mapped")
def test_memory_that_really_runs_out_ends_with_the_plan_and_the_knobs(tmp_path: Path, injected: Injected) -> None:
    script = Path(__file__).parent / "out_of_memory_fit.py"
    ran = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=300,
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
    )  # fmt: skip
    training = next((line for line in ran.stdout.splitlines() if line.startswith("TRAINING")), ran.stderr[-2000:])
    assert "memory ran out while training" in training and "The plan was: " in training
    assert "Most effective first: trainer.micro_batch_size=" in training and "(saves " in training
    generation = next((line for line in ran.stdout.splitlines() if line.startswith("GENERATION")), ran.stderr[-2000:])
    assert "memory ran out while generating answers" in generation
    assert "generation.batch_size=200" in generation
    injected("memory that runs out", told=2, says="the plan and the keys that save most")
