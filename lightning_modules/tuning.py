"""What all training modules share: one batch of the loader is one optimiser step.

A `StepBatch` brings the pairs of one optimiser step, cut into micro-batches. Losses are summed over pairs and divided by the
number of pairs in the whole step, over all processes; so neither the micro-batch size nor the number of processes changes
the gradient. Optimisation is manual: the loop below is the whole of it.

Checkpoints hold what is trained, the optimiser, the schedule and the step, as plain containers of tensors and numbers.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from math import isfinite
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import FSDPPrecision, MixedPrecision
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_modules.bad_steps import BadStep, StepCallback, callbacks_of, save_bad_step
from lightning_modules.checkpoint_files import read_checkpoint
from lightning_modules.optimisers import build_optimiser, build_schedule
from lightning_modules.step_stream import SealedStep, StepStream, forget_position
from parallax.models import processes
from parallax.models.batch import PairBatch, StepBatch
from parallax.models.memory.room import Room
from parallax.models.policy import Policy
from parallax.models.sharding.base import Shard, plain_name
from parallax.settings.groups import Optim

log = logging.getLogger(__name__)


class TrainingDiverged(RuntimeError):
    """More steps than allowed gave losses or gradients that are not finite."""


class TuningModule(pl.LightningModule):
    """Base of `DPOModule` and `SFTModule`.

    Args:
        policy: the model with its processor and adapter; `policy.model` is trained where it requires gradients.
        optim: the optimiser and its schedule.
        total_steps: optimiser steps of the whole fit; the schedule ends there.
        clip: largest gradient norm, or None.
        activation_checkpointing: recompute activations in the backward pass.
        keep_dropout: leave dropout on. Off in preference tuning, where policy and reference must be the same function.
        max_bad_steps: how many steps with a non-finite loss or gradient are left out before the run stops.
    """

    def __init__(
        self,
        policy: Policy,
        optim: Optim,
        *,
        total_steps: int,
        clip: float | None = 1.0,
        activation_checkpointing: bool = False,
        keep_dropout: bool = False,
        max_bad_steps: int = 10,
    ) -> None:
        super().__init__()
        if total_steps < 1:
            raise ValueError(f"total_steps={total_steps}: there must be at least one optimiser step")
        self.automatic_optimization = False
        self.strict_loading = (
            False  # checkpoints hold the trained part only; `on_load_checkpoint` checks it is all there
        )
        self.policy = policy
        self.network: nn.Module = policy.model
        self.optim, self.total_steps, self.clip = optim, total_steps, clip
        self.activation_checkpointing, self.keep_dropout = activation_checkpointing, keep_dropout
        self.max_bad_steps = max_bad_steps
        self.pairs_at_once = Room("pairs")
        self.bad_steps: list[BadStep] = []
        self.last_metrics: dict[str, float] = {}  # of the newest step, named as they are logged
        self._optimiser: Optimizer | None = None
        self._schedule: LambdaLR | None = None

    # -- what a subclass says -------------------------------------------------------------------------------------

    @abstractmethod
    def losses(self, micro_batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of each pair, as it enters the sum over the step, and metrics. Shapes: all (batch,)."""

    def after_step(self, metrics: dict[str, float]) -> None:
        """Called after each step that was not left out, with its means."""

    @property
    def beta(self) -> float | None:
        """Strength of the pull to the reference, where the loss defines rewards."""
        return None

    def denominator(self, step: StepBatch) -> float:
        """What the summed losses of the step, over all processes, are divided by. Default: its pairs."""
        return float(step.pairs_in_step)

    # -- one optimiser step ---------------------------------------------------------------------------------------

    def training_step(self, step: StepBatch, batch_idx: int) -> None:
        """Score, loss and backward for all micro-batches; then clip, step and log, once."""
        if not step.micro_batches:
            raise ValueError(
                f"process {self.global_rank} got no pair for step {self.global_step}; the sampler must give each process at "
                "least one. Use more pairs per step (trainer.batch_size) than there are processes"
            )
        sharding, optimiser, schedule = self.policy.sharding, self.optimizers(), self._schedule
        assert not isinstance(optimiser, list) and schedule is not None
        number, divisor, trained, scaler = self.global_step, self.denominator(step), self.trained(), self._loss_scaler()
        share = self.trainer.world_size if sharding.averages_gradients else 1  # a mean over processes becomes a sum
        while True:
            step = step.of_at_most(self.pairs_at_once.most)
            optimiser.zero_grad(set_to_none=True)
            try:
                sums, finite = self._gradients(step, share / divisor)
                break
            except (MemoryError, RuntimeError) as error:
                pairs = max(len(micro_batch) for micro_batch in step.micro_batches)
                if sharding.is_sharded or not self.pairs_at_once.lower(error, pairs):
                    raise
        if self.trainer.world_size > 1:
            sharding.sum_gradients(trained)
        metrics = means(self._over_processes(sums), step, divisor, number)  # waits for the device

        scale = scaler.get_scale() if scaler is not None else 1.0
        norm = sharding.clip(trained, self.clip, scale)  # waits for the device
        fault = "loss" if metrics.pop("not_finite") else "gradient" if norm is not None and not isfinite(norm) else None
        if fault is not None:
            sharding.leave_out(trained, scaled=scaler is not None)
        optimiser.step()
        norm, fault = sharding.after_step(norm, fault)
        if fault == "gradient" and scaler is not None:
            fault = None  # float16 overflowed: the scaler lowers its scale, and the next step fits
        if fault is None:
            self.after_step(metrics)
        self._log(step, {**metrics, "lr": float(schedule.get_last_lr()[0]), "grad_norm": norm})
        schedule.step()
        if fault is not None:
            self._note_bad_step(BadStep(number, f"the {fault} is not a finite number", self._named(step, finite)), step)

    def _gradients(self, step: StepBatch, factor: float) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Scores, losses and their gradients, of each micro-batch in turn: sums for the log, and which losses are finite.

        The sums are over pairs, in float64 on the device; a micro-batch that does not count brings its names only.
        """
        sums, finite = dict[str, Tensor](), list[Tensor]()
        for place, micro_batch in enumerate(step.micro_batches, 1):
            micro_batch = micro_batch.to(
                self.trainer.strategy.root_device, non_blocking=True
            )  # ours may be said to be the CPU's
            loss, shown = self.losses(micro_batch)  # scores and loss. Shapes: all (batch,)
            assert loss.shape == (len(micro_batch),), f"loss must be (batch,), got {tuple(loss.shape)}"
            self.policy.sharding.before_backward(last=place == len(step.micro_batches))
            self.manual_backward(loss.sum() * (micro_batch.weight * factor))
            finite.append(loss.detach().isfinite())
            values = {"loss": loss, "pairs": torch.ones_like(loss), "not_finite": ~finite[-1], **shown}
            for name, value in values.items():
                total = (
                    value.detach().double().sum()
                    if micro_batch.weight > 0
                    else value.new_zeros((), dtype=torch.float64)
                )
                sums[name] = sums[name] + total if name in sums else total
        return sums, finite

    def _over_processes(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Sums over all processes, on the host. Every process brings the same names."""
        names = sorted(sums)
        stacked = torch.stack([sums[name] for name in names])
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(stacked)
        return dict(zip(names, stacked.tolist(), strict=True))

    def _log(self, step: StepBatch, metrics: dict[str, float]) -> None:
        self.last_metrics = {f"train/{name}": value for name, value in metrics.items()}
        self.log_dict(self.last_metrics, batch_size=len(step), rank_zero_only=False)
        stream = self.trainer.train_dataloader
        if isinstance(stream, StepStream):  # Lightning's own number would count fits
            self.log("epoch", self.global_step / stream.steps_per_epoch, rank_zero_only=False)

    def _named(self, step: StepBatch, finite: Sequence[Tensor]) -> list[str]:
        """Ids of the pairs, of all processes, whose loss is not finite. Shape of each `finite`: (batch,)."""
        marked = zip(step.micro_batches, finite, strict=True)
        ids = [n for micro, good in marked for n, fine in zip(micro.pair_ids, good.tolist(), strict=True) if not fine]
        return [name for part in processes.all_gather(ids) for name in part]

    def _note_bad_step(self, bad: BadStep, step: StepBatch) -> None:
        self.bad_steps.append(bad)
        rank = self.trainer.global_rank
        folder = Path(self.trainer.default_root_dir) / (f"rank-{rank}" if rank else "")  # one for each process
        kept = save_bad_step(folder, bad, step.micro_batches, self.policy.encoder)
        ids = bad.pair_ids
        named = f" (pairs {', '.join(ids[:8])}{' …' if len(ids) > 8 else ''})" if ids else ""
        log.warning("step %d was left out: %s%s; it is kept in %s", bad.step, bad.reason, named, kept)
        for callback in callbacks_of(self.trainer):
            if isinstance(callback, StepCallback):
                callback.on_bad_step(self.trainer, self, bad)
        if len(self.bad_steps) > self.max_bad_steps:
            raise TrainingDiverged(
                f"{len(self.bad_steps)} steps gave a loss or gradient that is not a finite number, {self.max_bad_steps} are "
                f"allowed (trainer.max_bad_steps); the last was step {bad.step}{named}, kept in {kept}. The last good "
                "checkpoint is untouched. Lower optim.lr, or use trainer.precision=bf16-mixed or 32-true, and look at these pairs"
            )

    def _loss_scaler(self) -> GradScaler | None:
        """What scales losses in float16 under Lightning's own precisions; DeepSpeed has one of its own."""
        plugin = self.trainer.precision_plugin
        return plugin.scaler if isinstance(plugin, MixedPrecision | FSDPPrecision) else None

    # -- set-up ---------------------------------------------------------------------------------------------------

    def trained(self) -> list[nn.Parameter]:
        """Parameters that are trained, in the network's order."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def configure_optimizers(self) -> Any:
        """The same optimiser and schedule for every fit of this module, so that training goes on after pairs are rebuilt."""
        if self._optimiser is None or self._schedule is None:
            self._optimiser = build_optimiser(self.trained(), self.optim, self.policy.sharding.shape_of)
            self._schedule = build_schedule(self._optimiser, self.optim, self.total_steps)
        return {"optimizer": self._optimiser, "lr_scheduler": {"scheduler": self._schedule, "interval": "step"}}

    def setup(self, stage: str) -> None:
        """Mixed precision keeps what is trained in float32: at learning rates of 1e-6 a bfloat16 weight would never move."""
        if str(self.trainer.precision).endswith("-mixed"):
            self.policy.sharding.train_in_float32()

    def configure_model(self) -> None:
        """Strategies that shard weights do so in their own `setup`; some of Lightning's ask for this method all the same."""

    def on_train_start(self) -> None:
        """Training mode, with dropout off unless it is wanted."""
        if self.keep_dropout:
            self.policy.for_supervised_training()
        else:
            self.policy.for_preference_training()
        if self.activation_checkpointing:
            self.policy.activation_checkpointing(True)

    def on_train_end(self) -> None:
        """Leave the network as generation wants it. Harmless to call twice."""
        if self.activation_checkpointing:
            self.policy.activation_checkpointing(False)
        for parameter in self.trained():
            parameter.grad = None  # as large as the weights that are trained
        self.network.eval()
        self.policy.touched()

    def on_fit_end(self) -> None:
        """Lightning would copy weights and moments to the host after each fit; they are used where they are."""
        self.trainer.strategy.optimizers = []

    def cpu(self) -> TuningModule:
        """Stay on the device, see `on_fit_end`."""
        return self

    def on_before_batch_transfer(self, batch: object, dataloader_idx: int) -> Any:
        """Loaders may wrap a step so that precision plugins do not touch its tensors (see `StepStream`)."""
        return batch.step if isinstance(batch, SealedStep) else batch

    def transfer_batch_to_device(self, batch: object, device: torch.device, dataloader_idx: int) -> Any:
        """Micro-batches go to the device one by one, when they are needed."""
        return batch

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trained part of the weights only."""
        trained = {f"network.{name}" for name in self._trained_names()}
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: _copied(state[name]) for name in state if name in trained}
        checkpoint["bad_steps"] = [asdict(bad) for bad in self.bad_steps]
        checkpoint["last_metrics"] = dict(self.last_metrics)
        checkpoint["pairs_at_once"] = self.pairs_at_once.most

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of something else; go on from its step with the data position given by the loader."""
        trained = {f"network.{name}" for name in self._trained_names()}
        stored = set(checkpoint["state_dict"])
        if trained != stored:
            missing, extra = sorted(trained - stored), sorted(stored - trained)
            raise ValueError(
                f"the checkpoint does not fit what is trained here: {len(missing)} weights are missing "
                f"({', '.join(missing[:3])}), {len(extra)} are not known ({', '.join(extra[:3])}). Use the model and lora "
                "settings the checkpoint was made with"
            )
        self.bad_steps = [BadStep(**bad) for bad in checkpoint.get("bad_steps", [])]
        self.last_metrics = dict(checkpoint.get("last_metrics", {}))
        self.pairs_at_once.most = checkpoint.get("pairs_at_once", self.pairs_at_once.most)
        forget_position(checkpoint)
        self.policy.touched()

    def _trained_names(self) -> list[str]:
        return [plain_name(name) for name, p in self.network.named_parameters() if p.requires_grad]

    def take_trained(self, state: Mapping[str, Tensor]) -> None:
        """Put whole tensors into what is trained; where weights are sharded, each process its part."""
        self.policy.sharding.take_weights({plain_name(name): p for name, p in self.named_parameters()}, state)

    def load_trained(self, path: Path) -> dict[str, Any]:
        """Take the trained weights, and what was noted of the steps, from a checkpoint; returns the states of callbacks."""
        checkpoint = read_checkpoint(path)
        self.on_load_checkpoint(checkpoint)
        self.take_trained(checkpoint["state_dict"])
        states: dict[str, Any] = checkpoint.get("callbacks") or {}
        return states


def means(sums: Mapping[str, float], step: StepBatch, divisor: float, number: int) -> dict[str, float]:
    """Metrics of a step from the sums over its pairs; `not_finite` and `tokens` stay sums.

    Raises:
        ValueError: the sums are over another number of pairs than the step says it has.
    """
    pairs = sums["pairs"]
    if round(pairs) != step.pairs_in_step:
        raise ValueError(
            f"step {number} says it has {step.pairs_in_step} pairs and brought {round(pairs)}; the sampler and the trainer "
            "disagree about the number of processes"
        )
    whole = {"loss": sums["loss"] / divisor, "tokens": sums["tokens"], "not_finite": sums["not_finite"]}
    return {name: value / pairs for name, value in sums.items() if name not in {*whole, "pairs"}} | whole


def _copied(value: Tensor | Shard) -> Tensor | Shard:
    return value.detach().clone() if isinstance(value, Tensor) else replace(value, local=value.local.detach().clone())
