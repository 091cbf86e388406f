"""What strategies that shard weights have in common: when they do it, and checkpoints that every strategy reads.

Lightning's own strategies would write the whole base model into every checkpoint, and in a form that only the same strategy
reads. Here a checkpoint holds what is trained and nothing else, in the form all our strategies share (`checkpoint_files.py`), so
that a run stopped on eight processes goes on on one, and back.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.strategies import Strategy
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_modules.checkpoint_files import write_folder
from parallax.models import processes
from parallax.models.policy import Policy
from parallax.models.sharding.base import Shard, Sharding, joined, plain_name

if TYPE_CHECKING:
    from lightning_modules.tuning import TuningModule


class ShardedCheckpoints(Strategy):
    """Mixed into a strategy of Lightning's, before it. `sharded_files`: folders with a file per process, else one file."""

    sharded_files: bool = True

    @property
    def module(self) -> TuningModule:
        """What is being fitted."""
        return self.lightning_module  # type: ignore[return-value]

    @property
    def sharding(self) -> Sharding:
        """How its weights lie over the processes."""
        return self.module.policy.sharding

    @abstractmethod
    def shard(self, policy: Policy) -> None:
        """Share out the weights. Harmless where that is done: a policy may come sharded, and fits follow each other."""

    def setup(self, trainer: pl.Trainer) -> None:
        """This is the moment to share out the weights: they are loaded, and nothing has been computed."""
        self.shard(self.module.policy)
        super().setup(trainer)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What is trained; whole on the first process, or this process's part where checkpoints are folders."""
        trained = {plain_name(name): p for name, p in self.module.named_parameters() if p.requires_grad}
        return {name: value for name, p in trained.items() if (value := self._kept(p, p)) is not None}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimiser's state in torch's own form; tensors as in `lightning_module_state_dict`."""
        inner = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state = inner.state_dict()
        parameters = [p for group in inner.param_groups for p in group["params"]]
        return {**state, "state": self._kept_states(state["state"], parameters)}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Path | str, storage_options: object = None) -> None:
        """One file by the first process, or a folder in which every process writes its part."""
        if self.sharded_files:
            write_folder(checkpoint, processes.broadcast(str(filepath)))
        else:
            Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Path | str, weights_only: bool | None = None) -> dict[str, Any]:
        """Any of our checkpoints, whoever wrote it; its tensors are read when they are needed."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Each process takes its part of what was trained."""
        self.module.take_trained(checkpoint["state_dict"])

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Each process takes its part of the moments."""
        for optimiser, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimiser.param_groups for p in group["params"]]
            mine = {
                index: {key: self._mine(value, parameters[int(index)]) for key, value in own.items()}
                for index, own in state["state"].items()
            }
            optimiser.load_state_dict({**state, "state": mine})

    def _mine(self, value: object, parameter: nn.Parameter) -> Any:
        """A state tensor of the parameter's shape is sharded as the parameter is; counters are the same everywhere."""
        if not isinstance(value, Tensor) or tuple(value.shape) != self.sharding.shape_of(parameter):
            return value
        return self.sharding.part_of(value, parameter).detach()

    def _kept_states(
        self, states: dict[int, dict[str, Any]], parameters: list[nn.Parameter]
    ) -> dict[int, dict[str, Any]]:
        """The state of every parameter on every process, also of one of which this process has no number."""
        mine = {  # counters as they are; a type for each tensor that is sharded
            i: {k: v.dtype if isinstance(v, Tensor) and v.ndim else v for k, v in own.items()}
            for i, own in states.items()
        }
        known: dict[int, dict[str, Any]] = {}
        for theirs in processes.all_gather(mine):
            for i, own in theirs.items():
                known.setdefault(i, own)

        def kept(i: int, key: str, noted: object) -> Any:
            if not isinstance(noted, torch.dtype):
                return noted
            there = states[i][key] if i in states else parameters[i].new_zeros(0, dtype=noted)
            return self._kept(there, parameters[i])

        return {i: {k: kept(i, k, v) for k, v in own.items()} for i, own in sorted(known.items())}

    def _kept(self, value: Tensor, parameter: nn.Parameter) -> Any:
        """`value`, a parameter or a tensor sharded in the same way, as it goes into a checkpoint."""
        if self.sharded_files:
            return self.sharding.shard_of(value.detach(), parameter)
        full = self.sharding.whole(value.detach(), parameter)
        return full.cpu() if self.is_global_zero else None

    def _kept_shard(self, shard: Shard) -> Any:
        """A shard that is no parameter's own, in the same form."""
        if self.sharded_files:
            return shard
        full = joined(shard)
        return full.cpu() if self.is_global_zero else None
