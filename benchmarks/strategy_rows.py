"""The training step of `gpu.py` under Lightning's strategies, by one process: what each costs beside the bare step.

With one process nothing is sharded, so the row of `fsdp` or `fsdp2` shows what its wrapping and gathering cost, and whether the
planner's forecast holds there; what several GPUs do is not measured by this.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch

from benchmarks.allocator import Peak
from benchmarks.measure import medians
from benchmarks.random_model import random_pairs
from lightning_modules.dpo import DPOModule
from lightning_modules.objectives import DPO, MultiNegative
from lightning_modules.trainer import make_trainer
from parallax.models.batch import StepBatch
from parallax.models.loading import layout_for
from parallax.models.memory.model_shape import shape_of
from parallax.models.memory.planner import Workload, plan_training
from parallax.models.policy import Policy
from parallax.settings.groups import Optim, Trainer
from parallax.settings.shipped import shipped

STRATEGIES = {"ddp": "ddp", "fsdp": "sharded", "fsdp2": "sharded"}  # ours -> the planner's name


class _Steps:
    """The same step again and again."""

    def __init__(self, step: StepBatch, count: int) -> None:
        self.step, self.count = step, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[StepBatch]:
        return iter([self.step] * self.count)


class _Watch(pl.Callback):
    """Times of the steps after the warm-up, and the peak of the last step, on its own."""

    def __init__(self, warmup: int, last: int, device: str) -> None:
        self.warmup, self.last, self.device = warmup, last, device
        self.times: list[float] = []
        self.peak = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == self.last:
            self._watch = Peak(self.device)
        self._wait()
        self._began = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        self._wait()
        took, place = time.perf_counter() - self._began, rest[-1]
        if place == self.last:
            self.peak = self._watch.stop()
        elif place >= self.warmup:
            self.times.append(took)

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def strategy_row(
    name: str, policy: Policy, work: Workload, held: int, device: str, *, rounds: int, warmup: int
) -> dict[str, Any]:
    """Median time and peak of a step under one strategy, beside the forecast. The policy is of no use afterwards.

    Args:
        name: ddp | fsdp | fsdp2.
        held: bytes of weights and moments, that the step's peak comes on top of.
        rounds, warmup: steps that are timed, and that are not.
    """
    shape = shape_of(policy.model)
    batch = random_pairs(
        policy.model.get_base_model().config, pairs=work.pairs, prompt_tokens=work.prompt_tokens,
        response_tokens=work.response_tokens, responses=work.responses,
    )  # fmt: skip
    policy.layout = layout_for(work.layout, policy.model)
    objective: Any = DPO(beta=0.1) if work.responses == 2 else MultiNegative(beta=0.1)
    count = warmup + rounds + 1
    module = DPOModule(
        policy,
        objective,
        shipped(Optim, lr=1e-6, scheduler="constant", warmup_ratio=0.0),
        total_steps=count,
        activation_checkpointing=work.checkpointing,
    )
    watch = _Watch(warmup, count - 1, device)
    settings = shipped(Trainer, accelerator="gpu" if device == "cuda" else "cpu", strategy=name)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(settings, folder=folder, callbacks=[watch], max_steps=count, weights=policy.precision)
        trainer.fit(module, train_dataloaders=_Steps(StepBatch([batch], work.pairs), count))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    seconds = medians({name: watch.times})[name]
    plan = plan_training(shape, replace(work, strategy=STRATEGIES[name], processes=1))
    return {
        "layout": f"{work.layout}, {name}", "responses": work.responses, "pairs": work.pairs, "seconds": seconds,
        "pairs_per_second": work.pairs / seconds, "tokens_per_second": work.tokens / seconds, "model_flops": None,
        "utilisation": None, "peak_bytes": held + watch.peak, "forecast_bytes": plan.peak,
        "forecast_over_peak": plan.peak / (held + watch.peak), "times": watch.times,
    }  # fmt: skip


def strategy_rows(
    build: Callable[[], Policy], work: Workload, held: int, device: str, names: list[str], *, rounds: int, warmup: int
) -> list[dict[str, Any]]:
    """A row per strategy, each with a model of its own."""
    return [strategy_row(name, build(), work, held, device, rounds=rounds, warmup=warmup) for name in names]
