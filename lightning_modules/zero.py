"""Training with DeepSpeed's ZeRO under Lightning: weights, gradients and optimiser states sharded over GPUs.

DeepSpeed clips gradients, keeps master weights in float32 and makes the optimiser's steps on flat rows of its own. Checkpoints
are ours all the same: what is trained and its moments are read out of those rows and put back into them (`zero.py`), so
any number of processes goes on from them, with any strategy. Nothing here imports DeepSpeed before a trainer is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.strategies import DeepSpeedStrategy
from torch import nn
from torch.optim import Optimizer

from lightning_modules.sharded_checkpoints import ShardedCheckpoints
from parallax.models.policy import Policy
from parallax.models.sharding.zero import Zero
from parallax.settings.groups import DeepSpeed

MOMENTS = ("exp_avg", "exp_avg_sq")  # what AdamW keeps of each number
LOSS_SCALE = "deepspeed_loss_scale"  # key in checkpoints of float16 training


class ZeroStrategy(ShardedCheckpoints, DeepSpeedStrategy):
    """Lightning's `DeepSpeedStrategy` for a step of several micro-batches, with the checkpoints of our other strategies.

    Args:
        sharded_files: checkpoints are folders with a file per process; False gathers them into one file.
        timeout: longest wait for another process.
        clip: largest gradient norm, or None.
        settings: the stage, what is kept in host memory, and further keys of DeepSpeed's own configuration.

    Raises:
        ModuleNotFoundError: DeepSpeed is not installed.
    """

    def __init__(
        self,
        *,
        sharded_files: bool = True,
        timeout: timedelta,
        clip: float | None,
        settings: DeepSpeed,
    ) -> None:
        super().__init__(
            stage=settings.stage,
            offload_optimizer=settings.offload_optimizer,
            offload_parameters=settings.offload_parameters,
            logging_batch_size_per_gpu=1,  # of no use: steps bring their own micro-batches
            timeout=timeout,
        )
        assert isinstance(self.config, dict)
        self.config["gradient_clipping"] = clip or 0.0
        self.config["zero_force_ds_cpu_optimizer"] = False  # torch's AdamW steps moments in host memory, too
        _put_into(self.config, settings.config or {})
        self.sharded_files = sharded_files
        self._made: list[Optimizer] = []  # of the first fit; those after it go on with them
        self._groups: list[dict[str, Any]] = []  # the optimiser's, before DeepSpeed takes the parameters out

    # -- one engine for all fits of a module ----------------------------------------------------------------------

    def shard(self, policy: Policy) -> None:
        policy.prepare_for_deepspeed()

    def setup(self, trainer: pl.Trainer) -> None:
        """Hand the network to DeepSpeed, or go on with the engine that an earlier fit has left."""
        if self._zero is None:
            super().setup(trainer)
            policy = self.module.policy
            policy.sharding = Zero(policy.model, self.deepspeed_engine)
            self._made = self.optimizers
        else:
            self.model, self.optimizers = self._zero.engine, self._made

    def teardown(self) -> None:
        """End a fit. Everything stays where DeepSpeed has put it, as pairs may be rebuilt now and training go on."""
        assert self.accelerator is not None and self.cluster_environment is not None
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()
        self.checkpoint_io.teardown()

    def _setup_model_and_optimizer(
        self, model: nn.Module, optimizer: Optimizer | None, lr_scheduler: Any = None
    ) -> Any:
        assert optimizer is not None
        self._groups = [{**group, "params": list(group["params"])} for group in optimizer.param_groups]
        return super()._setup_model_and_optimizer(model, optimizer, lr_scheduler)

    @property
    def _zero(self) -> Zero | None:
        """The network in DeepSpeed's hands, once it is there."""
        return self.sharding if isinstance(self.sharding, Zero) else None

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimiser's state as torch itself would write it for the parameters before they were sharded.

        Each has a counter of its own, since torch advances them one by one.
        """
        zero = self._zero
        assert zero is not None
        steps, parameters = zero.steps_made(), self._parameters()
        state = {} if steps is None else {
            number: {"step": steps.clone(), **{name: self._kept_shard(zero.shard(parameter, name)) for name in MOMENTS}}
            for number, parameter in enumerate(parameters)
        }  # fmt: skip
        groups, first = [], 0
        for before, now in zip(self._groups, zero.optimiser.optimizer.param_groups, strict=True):
            count = len(before["params"])
            values = {key: now[key] for key in before if key != "params"}
            groups.append({**values, "params": list(range(first, first + count))})
            first += count
        return {"state": state, "param_groups": groups}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Path | str, storage_options: object = None) -> None:
        """One file by the first process, or a folder in which every process writes its part."""
        zero = self._zero
        if zero is not None and zero.engine.fp16_enabled():
            checkpoint = {**checkpoint, LOSS_SCALE: _numbers(zero.optimiser.loss_scaler)}
        super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Path | str, weights_only: bool | None = None) -> dict[str, Any]:
        """Any of our checkpoints, whoever wrote it; its tensors are read when they are needed."""
        content, zero = super().load_checkpoint(checkpoint_path, weights_only), self._zero
        if zero is not None and LOSS_SCALE in content:
            for name in _numbers(zero.optimiser.loss_scaler).keys() & content[LOSS_SCALE].keys():
                setattr(zero.optimiser.loss_scaler, name, content[LOSS_SCALE][name])
        return content

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Each process takes its part of the moments. A parameter without any has never had a gradient: its are zero."""
        zero, (state,) = self._zero, checkpoint["optimizer_states"]
        assert zero is not None
        for now, saved in zip(zero.optimiser.optimizer.param_groups, state["param_groups"], strict=True):
            now.update({key: value for key, value in saved.items() if key in now and key != "params"})
        states = state["state"]
        if not states:
            return
        steps = max((own["step"] for own in states.values()), key=float)
        zero.begin_states(steps, MOMENTS)
        parameters = self._parameters()
        for number, own in states.items():
            for name in MOMENTS:
                zero.put(parameters[int(number)], own[name], name)

    def _parameters(self) -> list[Any]:
        """What is trained, in the order in which torch's optimiser numbers it."""
        return [parameter for group in self._groups for parameter in group["params"]]


def _numbers(scaler: object) -> dict[str, int | float | bool]:
    return {name: value for name, value in vars(scaler).items() if isinstance(value, int | float | bool)}


def _put_into(config: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add the keys of `more`, in sections too: what a section has already and `more` does not name stays."""
    for key, value in more.items():
        if isinstance(value, Mapping) and isinstance(config.get(key), dict):
            _put_into(config[key], value)
        else:
            config[key] = value
