"""The training step of `gpu_step.py` under Lightning's strategies, by one process or several: time and peak memory.

    torchrun --nproc_per_node=8 benchmarks/strategy_rows.py --strategy fsdp2          # eight GPUs of a machine
    torchrun --nproc_per_node=2 benchmarks/strategy_rows.py --strategy ddp --toy      # two processes on a CPU

With one process nothing is sharded, so the row of `fsdp` or `fsdp2` shows what its wrapping and gathering cost, and whether the
planner's forecast holds there. With several the peak is that of the first process; every process takes `--pairs` pairs.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if entry != str(ROOT / "benchmarks"))]

import pytorch_lightning as pl
import torch

from benchmarks.allocator import Peak
from benchmarks.measure import medians, parser, table, write_json
from benchmarks.random_model import image_tokens, model_config, names, random_pairs, random_policy
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
        if self.device != "cpu":
            torch.cuda.synchronize()


def strategy_row(
    name: str, policy: Policy, work: Workload, held: int, device: str, *, rounds: int, warmup: int, processes: int = 1
) -> dict[str, Any]:
    """Median time and peak of a step under one strategy, beside the forecast. The policy is of no use afterwards.

    Args:
        name: ddp | fsdp | fsdp2.
        held: bytes of weights and moments, that the step's peak comes on top of.
        rounds, warmup: steps that are timed, and that are not.
        processes: how many share the work; started by torchrun.
    """
    shape = shape_of(policy.model)
    batch = random_pairs(
        policy.model.get_base_model().config, pairs=work.pairs, prompt_tokens=work.prompt_tokens,
        response_tokens=work.response_tokens, responses=work.responses, image=work.image_tokens,
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
    settings = shipped(Trainer, accelerator="cpu" if device == "cpu" else "gpu", strategy=name, devices=processes)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(settings, folder=folder, callbacks=[watch], max_steps=count, weights=policy.precision)
        trainer.fit(module, train_dataloaders=_Steps(StepBatch([batch], work.pairs * processes), count))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    seconds = medians({name: watch.times})[name]
    plan = plan_training(shape, replace(work, strategy=STRATEGIES[name], processes=processes))
    return {
        "processes": processes, "layout": f"{work.layout}, {name}", "responses": work.responses, "pairs": work.pairs,
        "seconds": seconds, "pairs_per_second": processes * work.pairs / seconds,
        "tokens_per_second": processes * work.tokens / seconds, "model_flops": None, "utilisation": None,
        "peak_bytes": held + watch.peak, "forecast_bytes": plan.peak,
        "forecast_over_peak": plan.peak / (held + watch.peak), "times": watch.times,
    }  # fmt: skip


def strategy_rows(
    build: Callable[[], Policy], work: Workload, held: int, device: str, names: list[str], *, rounds: int, warmup: int
) -> list[dict[str, Any]]:
    """A row per strategy, each with a model of its own."""
    return [strategy_row(name, build(), work, held, device, rounds=rounds, warmup=warmup) for name in names]


def main(arguments: list[str] | None = None) -> dict[str, Any] | None:
    """One strategy by all processes of torchrun; the first prints and writes.

    Raises SystemExit without a GPU where no toy is asked for.
    """
    options = parser(__file__, "A training step under a strategy.", rounds=5)
    options.add_argument("--strategy", default="ddp", choices=STRATEGIES, help="of Lightning")
    options.add_argument("--model", default="llava15_7b", choices=names(), help="whose size")
    options.add_argument("--pairs", type=int, default=4, help="pairs per step and process")
    options.add_argument("--response-tokens", type=int, default=256, help="tokens of a response")
    options.add_argument("--rank", type=int, default=128, help="of LoRA")
    options.add_argument("--toy", action="store_true", help="a toy on a CPU, to try the script")
    given = options.parse_args(arguments)
    rank, processes = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device, dtype = ("cpu", torch.float32) if given.toy else (f"cuda:{rank}", torch.bfloat16)
    if not given.toy and not torch.cuda.is_available():
        raise SystemExit("there is no GPU here (torch sees none); try the script itself with --toy")
    model = "tiny" if given.toy else given.model
    policy = random_policy(model, rank=given.rank, dtype=dtype, device=device, fused=True)
    image = image_tokens(model_config(model))
    work = Workload(
        image + 64, image, given.response_tokens, responses=2, pairs=given.pairs, rank=given.rank, weights=policy.precision,
        autocast=None if given.toy else "bfloat16", fused=True,
    )  # fmt: skip
    held = sum(p.numel() * p.element_size() for p in policy.model.parameters())
    held += 2 * sum(p.numel() * p.element_size() for _, p in policy.trainable_parameters())
    row = strategy_row(
        given.strategy, policy, work, held, device, rounds=given.rounds, warmup=given.warmup, processes=processes
    )
    if int(os.environ.get("RANK", 0)):
        return None
    head = ["processes", "strategy", "s per step", "pairs/s", "peak GB", "forecast GB"]
    cells = [
        processes,
        given.strategy,
        row["seconds"],
        row["pairs_per_second"],
        row["peak_bytes"] / 1e9,
        row["forecast_bytes"] / 1e9,
    ]
    print(table(head, [cells]))
    content = {"model": model, "rows": [row]}
    write_json(given.json, content)
    return content


if __name__ == "__main__":
    main()
