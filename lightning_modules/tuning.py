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
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, ParallelStrategy
from torch import Tensor, nn

from lightning_modules.bad_steps import BadStep, save_bad_step
from lightning_modules.checkpoint_files import read_checkpoint
from lightning_modules.fsdp1 import FSDP1Strategy
from lightning_modules.fsdp2 import FSDP2Strategy
from lightning_modules.gradients import clip_to, norm_of, sum_over_processes
from lightning_modules.loop_state import forget_position
from lightning_modules.optimisers import build_optimiser, build_schedule
from lightning_modules.step_stream import StepStream
from lightning_modules.step_sums import StepSums
from lightning_modules.zero import ZeroStrategy
from parallax.models.batch import PairBatch, StepBatch
from parallax.models.sharding.fsdp2 import plain_name, take_weights, train_in_float32

log = logging.getLogger(__name__)


class TrainingDiverged(RuntimeError):
    """More steps than allowed gave losses or gradients that are not finite."""


class TuningModule(pl.LightningModule):
    """Base of `DPOModule` and `SFTModule`.

    Args:
        policy: the model with its processor and adapter; `policy.model` is trained where it requires gradients.
        optim: the `optim` group as a plain dict (see `optimisers.py`).
        total_steps: optimiser steps of the whole fit; the schedule ends there.
        clip: largest gradient norm, or None.
        activation_checkpointing: recompute activations in the backward pass.
        keep_dropout: leave dropout on. Off in preference tuning, where policy and reference must be the same function.
        max_bad_steps: how many steps with a non-finite loss or gradient are left out before the run stops.
    """

    def __init__(
        self,
        policy: Any,
        optim: Mapping[str, Any],
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
        self.optim, self.total_steps, self.clip = dict(optim), total_steps, clip
        self.activation_checkpointing, self.keep_dropout = activation_checkpointing, keep_dropout
        self.max_bad_steps = max_bad_steps
        self.bad_steps: list[BadStep] = []
        self.last_metrics: dict[str, float] = {}  # of the newest step, named as they are logged
        self._step_metrics: dict[str, float] = {}

    # -- what a subclass says -------------------------------------------------------------------------------------

    @abstractmethod
    def losses(self, micro_batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of each pair, as it enters the sum over the step, and metrics. Shapes: all (batch,)."""

    def denominator(self, step: StepBatch) -> float:
        """What the summed losses of the step, over all processes, are divided by. Default: its pairs."""
        return float(step.pairs_in_step)

    # -- one optimiser step ---------------------------------------------------------------------------------------

    def training_step(self, step: StepBatch, batch_idx: int) -> None:
        """Forward and backward over all micro-batches, one optimiser step, one set of metrics."""
        if not step.micro_batches:
            raise ValueError(
                f"process {self.global_rank} got no pair for step {self.global_step}; the sampler must give each process at "
                "least one. Use more pairs per step (trainer.batch_size) than there are processes"
            )
        optimiser: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        sums, divisor, zero = StepSums(), self.denominator(step), self._zero
        self._finite: list[tuple[list[str], Tensor]] = []
        self._present = step
        optimiser.zero_grad(set_to_none=True)
        with self._gradients_stay_local():
            for place, micro_batch in enumerate(step.micro_batches, 1):
                micro_batch = micro_batch.to(self.trainer.strategy.root_device)  # ours may be said to be the CPU's
                loss, metrics = self.losses(micro_batch)
                if zero is not None:
                    zero.before_backward(last=place == len(step.micro_batches))
                assert loss.shape == (len(micro_batch),), f"loss must be (batch,), got {tuple(loss.shape)}"
                self.manual_backward(loss.sum() * (micro_batch.weight * self._averaged_over / divisor))
                finite = loss.detach().isfinite()
                values = {"loss": loss, "pairs": torch.ones_like(loss), "not_finite": ~finite, **metrics}
                sums.add(values, counts=micro_batch.weight > 0)
                self._finite.append((micro_batch.pair_ids, finite))
        if self._sums_gradients_itself:
            sum_over_processes(self.trained())
        self._finish_metrics(sums.finish(self.trainer.world_size), step, divisor)
        self._step_metrics["lr"] = float(schedule.get_last_lr()[0])
        number = self.global_step
        optimiser.step()  # calls on_before_optimizer_step below, after fp16 gradients have been unscaled
        if zero is not None:
            self._step_metrics["grad_norm"] = zero.grad_norm()
            if zero.left_out and not self._step_metrics["not_finite"] and not zero.scales_losses:
                self._note_bad_step("gradient", number)
        schedule.step()
        self._publish(len(step))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Measure and clip the gradient; a step that is not finite is left out by taking its gradients away."""
        if self._zero is not None:  # it measures and clips them itself
            if self._step_metrics["not_finite"]:
                self._zero.leave_out()
                self._note_bad_step("loss", self.global_step)
            return
        parameters = self.trained()
        norm = self._norm(parameters)
        self._step_metrics["grad_norm"] = float(norm)  # waits for the device
        losses_finite = self._step_metrics["not_finite"] == 0
        if losses_finite and bool(norm.isfinite()):
            if self.clip is not None and not self._clips_through_strategy:
                clip_to(parameters, self.clip, norm.to(parameters[0].device))
            return
        for parameter in parameters:
            parameter.grad = None
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if losses_finite and scaler is not None:
            return  # fp16 gradients overflowed: the scaler lowers its scale and the next step fits
        self._note_bad_step("loss" if not losses_finite else "gradient", self.global_step)

    def _finish_metrics(self, sums: dict[str, float], step: StepBatch, divisor: float) -> None:
        pairs, bad = sums.pop("pairs"), sums.pop("not_finite")
        if round(pairs) != step.pairs_in_step:
            raise ValueError(
                f"step {self.global_step} says it has {step.pairs_in_step} pairs and brought {round(pairs)}; the sampler and "
                "the trainer disagree about the number of processes"
            )
        loss, tokens = sums.pop("loss") / divisor, sums.pop("tokens")
        self._step_metrics = {name: value / pairs for name, value in sums.items()}
        self._step_metrics |= {"loss": loss, "tokens": tokens, "not_finite": bad}

    def _publish(self, batch_size: int) -> None:
        metrics = {name: value for name, value in self._step_metrics.items() if name != "not_finite"}
        self.last_metrics = {f"train/{name}": value for name, value in metrics.items()}
        self.log_dict(self.last_metrics, batch_size=batch_size, rank_zero_only=False)
        stream = self.trainer.train_dataloader
        if isinstance(stream, StepStream):  # Lightning's own number would count fits
            self.log("epoch", self.global_step / stream.steps_per_epoch, rank_zero_only=False)

    def _note_bad_step(self, what: str, step: int) -> None:
        ids = [
            name
            for names, finite in self._finite
            for name, good in zip(names, finite.tolist(), strict=True)
            if not good
        ]
        if self.trainer.world_size > 1:
            gathered: list[list[str]] = [[] for _ in range(self.trainer.world_size)]
            torch.distributed.all_gather_object(gathered, ids)
            ids = [name for part in gathered for name in part]
        bad = BadStep(step, f"the {what} is not a finite number", ids)
        self.bad_steps.append(bad)
        kept = save_bad_step(self._folder, bad, self._present.micro_batches, self.policy.encoder)
        named = f" (pairs {', '.join(ids[:8])}{' …' if len(ids) > 8 else ''})" if ids else ""
        log.warning("step %d was left out: %s%s; it is kept in %s", bad.step, bad.reason, named, kept)
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if hasattr(callback, "on_bad_step"):
                callback.on_bad_step(self.trainer, self, bad)
        if len(self.bad_steps) > self.max_bad_steps:
            raise TrainingDiverged(
                f"{len(self.bad_steps)} steps gave a loss or gradient that is not a finite number, {self.max_bad_steps} are "
                f"allowed (trainer.max_bad_steps); the last was step {bad.step}{named}, kept in {kept}. The last good "
                "checkpoint is untouched. Lower optim.lr, or use trainer.precision=bf16-mixed or 32-true, and look at these pairs"
            )

    @property
    def _folder(self) -> Path:
        """Where steps that were left out are kept: the stage's folder; each process but the first has one of its own."""
        rank = self.trainer.global_rank
        return Path(self.trainer.default_root_dir) / (f"rank-{rank}" if rank else "")

    # -- gradients over processes ---------------------------------------------------------------------------------

    @property
    def _sums_gradients_itself(self) -> bool:
        return self.trainer.world_size > 1 and self._is_ddp

    @property
    def _averaged_over(self) -> int:
        """Sharding strategies average gradients over processes where a sum is meant: undo it in the loss."""
        return 1 if self._is_ddp else self.trainer.world_size

    @property
    def _is_ddp(self) -> bool:
        return isinstance(self.trainer.strategy, DDPStrategy) and self._zero is None

    @property
    def _zero(self) -> ZeroStrategy | None:
        """DeepSpeed's strategy, which Lightning derives from DDP's."""
        strategy = self.trainer.strategy
        return strategy if isinstance(strategy, ZeroStrategy) else None

    def _gradients_stay_local(self) -> AbstractContextManager[Any]:
        strategy = self.trainer.strategy
        if self._zero is not None:  # it divides gradients as they come, and refuses to be told not to
            return nullcontext()
        return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()

    @property
    def _clips_through_strategy(self) -> bool:
        """FSDP1 knows its shards and must clip them itself."""
        return isinstance(self.trainer.strategy, FSDP1Strategy)

    def _norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        strategy = self.trainer.strategy
        if isinstance(strategy, FSDP1Strategy):
            return strategy.clip_grad_norm_(float("inf") if self.clip is None else self.clip)
        return norm_of(parameters)

    # -- set-up ---------------------------------------------------------------------------------------------------

    def trained(self) -> list[nn.Parameter]:
        """Parameters that are trained, in the network's order."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def configure_optimizers(self) -> Any:
        """The same optimiser and schedule for every fit of this module, so that training goes on after pairs are rebuilt."""
        if not hasattr(self, "_optimiser"):
            self._optimiser = build_optimiser(self.trained(), self.optim)
            self._schedule = build_schedule(self._optimiser, self.optim, self.total_steps)
        return {"optimizer": self._optimiser, "lr_scheduler": {"scheduler": self._schedule, "interval": "step"}}

    def setup(self, stage: str) -> None:
        """Mixed precision keeps what is trained in float32: at learning rates of 1e-6 a bfloat16 weight would never move."""
        if str(self.trainer.precision).endswith("-mixed"):
            train_in_float32(self.network)

    def configure_model(self) -> None:
        """Where weights are sharded over processes, this is the moment: they are loaded, and nothing has been computed."""
        strategy = self.trainer.strategy
        if isinstance(strategy, FSDP2Strategy):
            self.policy.shard(strategy.mesh)
        elif isinstance(strategy, FSDP1Strategy):
            strategy.precision_plugin.convert_module(self.network)  # later it would be too late
            self.policy.shard(strategy.fsdp1_settings)
        elif isinstance(strategy, ZeroStrategy):
            self.policy.prepare_for_deepspeed()

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
        self.network.eval()
        self.policy.touched()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Loaders may wrap a step so that precision plugins do not touch its tensors (see `StepStream`)."""
        return batch.step if hasattr(batch, "step") else batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
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
        forget_position(checkpoint)
        self.policy.touched()

    def _trained_names(self) -> list[str]:
        return [plain_name(name) for name, p in self.network.named_parameters() if p.requires_grad]

    def load_trained(self, path: Path) -> dict[str, Any]:
        """Take the trained weights, and what was noted of the steps, from a checkpoint; returns the states of callbacks."""
        checkpoint = read_checkpoint(path)
        self.on_load_checkpoint(checkpoint)
        take_weights(self, checkpoint["state_dict"])
        states: dict[str, Any] = checkpoint.get("callbacks") or {}
        return states


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else replace(value, local=value.local.detach().clone())
