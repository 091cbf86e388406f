"""What strategies that divide weights have in common: checkpoints that every strategy reads.

Lightning's own strategies would write the whole base model into every checkpoint, and in a form that only the same strategy
reads. Here a checkpoint holds what is trained and nothing else, in the form all our strategies share (`checkpoint_files.py`), so
that a run stopped on eight processes goes on on one, and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytorch_lightning.strategies import Strategy
from torch import Tensor
from torch.optim import Optimizer

from lightning_modules.partwise_adamw import PartwiseAdamW
from parallax.models import processes
from parallax.models.sharding import fsdp1, fsdp2
from parallax.models.sharding.fsdp1 import Shard


class ShardedCheckpoints(Strategy):
    """Mixed into a strategy of Lightning's, before it. `sharded_files`: folders with a file per process, else one file."""

    sharded_files: bool = True

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What is trained; whole on the first process, or this process's part where checkpoints are folders."""
        assert self.lightning_module is not None
        named = self.lightning_module.named_parameters()
        trained = {fsdp2.plain_name(name): p for name, p in named if p.requires_grad}
        return {name: value for name, p in trained.items() if (value := self._kept(p.detach(), p)) is not None}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimiser's state in torch's own form; tensors as in `lightning_module_state_dict`."""
        inner = getattr(optimizer, "_optimizer", optimizer)
        if isinstance(inner, PartwiseAdamW):
            state = inner.sharded_state()
            pieces = {i: {k: self._kept_shard(v) for k, v in own.items()} for i, own in state["state"].items()}
            return {**state, "state": pieces}
        state = inner.state_dict()
        parameters = [p for group in inner.param_groups for p in group["params"]]
        return {**state, "state": self._kept_states(state["state"], parameters)}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """One file by the first process, or a folder in which every process writes its part."""
        from lightning_modules.checkpoint_files import write_folder

        if self.sharded_files:
            write_folder(checkpoint, processes.broadcast(str(filepath)))
        else:
            Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Any of our checkpoints, whoever wrote it; its tensors are read when they are needed."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Each process takes its part of what was trained."""
        assert self.lightning_module is not None
        fsdp2.take_weights(self.lightning_module, checkpoint["state_dict"])

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Each process takes its part of the moments."""
        for optimiser, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            if isinstance(optimiser, PartwiseAdamW):
                optimiser.load_state_dict(state)  # it takes its part itself
                continue
            parameters = [p for group in optimiser.param_groups for p in group["params"]]
            mine = {
                index: {key: _like(value, parameters[int(index)]) for key, value in own.items()}
                for index, own in state["state"].items()
            }
            optimiser.load_state_dict({**state, "state": mine})

    def _kept_states(self, states: dict[int, dict[str, Any]], parameters: list[Any]) -> dict[int, dict[str, Any]]:
        """The state of every parameter on every process, also of one of which this process has no number."""
        places = [fsdp1.offset_of(p) for p in parameters]
        if not any(places):
            return {i: {k: self._kept(v, parameters[i]) for k, v in own.items()} for i, own in states.items()}
        # counters as they are; a type for each tensor that is sharded
        mine = {
            i: {k: v.dtype if isinstance(v, Tensor) and v.ndim else v for k, v in own.items()}
            for i, own in states.items()
        }
        known: dict[int, dict[str, Any]] = {}
        for theirs in processes.all_gather(mine):
            for i, own in theirs.items():
                known.setdefault(i, own)
        nothing: dict[str, Any] = {}
        return {
            i: {
                k: v if isinstance(v, Tensor | int | float) else self._kept(
                    states.get(i, nothing).get(k, parameters[i].new_zeros(0, dtype=v)), parameters[i]
                )
                for k, v in own.items()
            }
            for i, own in sorted(known.items())
        }  # fmt: skip

    def _kept(self, value: Any, parameter: Any) -> Any:
        """`value`, a parameter or a tensor sharded in the same way, as it goes into a checkpoint."""
        if not isinstance(value, Tensor):
            return value
        if (place := fsdp1.offset_of(parameter)) is not None:
            return self._kept_shard(Shard(value.detach().reshape(-1), place))
        if self.sharded_files:
            return value
        full = fsdp2.whole(value)
        return full.cpu() if self.is_global_zero else None

    def _kept_shard(self, value: Any) -> Any:
        """`value`, a piece of a tensor or a counter, as it goes into a checkpoint."""
        if self.sharded_files or not isinstance(value, Shard):
            return value
        full = fsdp1.whole_of(value.local, value.place)
        return full.cpu() if self.is_global_zero else None


def _like(value: Any, parameter: Any) -> Any:
    """A state tensor of the parameter's shape is sharded as the parameter is; counters are the same everywhere."""
    if not isinstance(value, Tensor) or tuple(value.shape) != fsdp2.shape_of(parameter):
        return value
    return fsdp2.share_of(value, parameter if fsdp1.offset_of(parameter) else parameter.detach())
