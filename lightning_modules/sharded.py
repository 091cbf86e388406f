"""Training with weights, gradients and optimiser states divided over processes: torch's fully_shard under Lightning.

Lightning's own strategy would write the whole base model into every checkpoint, and in a form that only the same strategy reads.
Here a checkpoint holds what is trained and nothing else, in the form all our strategies share (`checkpoint_files.py`), so that a
run stopped on eight processes goes on on one, and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pytorch_lightning.strategies import ModelParallelStrategy, Strategy
from torch import Tensor
from torch.optim import Optimizer

from parallax.models import processes, sharding


class ShardedStrategy(ModelParallelStrategy):
    """One mesh of all processes; which modules are divided is `sharding.shard`'s matter, called by `TuningModule`.

    Args:
        sharded_files: checkpoints are folders with a file per process; False gathers them into one file.
        timeout: longest wait for another process.
    """

    def __init__(self, *, sharded_files: bool = True, timeout: timedelta) -> None:
        super().__init__(data_parallel_size=1, tensor_parallel_size=1, timeout=timeout)
        self.sharded_files = sharded_files

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    @property
    def mesh(self) -> Any:
        """The one-dimensional mesh that weights are divided over."""
        return self.device_mesh["data_parallel"]

    def setup_environment(self) -> None:
        """Every process is a part of the data-parallel dimension."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What is trained; whole on the first process, or this process's part where checkpoints are folders."""
        assert self.lightning_module is not None
        trained = {name: p for name, p in self.lightning_module.named_parameters() if p.requires_grad}
        return {name: value for name, p in trained.items() if (value := self._kept(p.detach())) is not None}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimiser's state in torch's own form; tensors as in `lightning_module_state_dict`."""
        inner = getattr(optimizer, "_optimizer", optimizer)
        state = inner.state_dict()
        return {**state, "state": {i: {k: self._kept(v) for k, v in own.items()} for i, own in state["state"].items()}}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """One file by the first process, or a folder in which every process writes its part."""
        from lightning_modules.checkpoint_files import write_folder

        if self.sharded_files:
            write_folder(checkpoint, processes.from_first(str(filepath)))
        else:
            Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Any of our checkpoints, whoever wrote it; its tensors are read when they are needed."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Each process takes its part of what was trained."""
        assert self.lightning_module is not None
        sharding.take_weights(self.lightning_module, checkpoint["state_dict"])

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Each process takes its part of the moments."""
        for optimiser, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimiser.param_groups for p in group["params"]]
            mine = {
                index: {key: _like(value, parameters[int(index)]) for key, value in own.items()}
                for index, own in state["state"].items()
            }
            optimiser.load_state_dict({**state, "state": mine})

    def _kept(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or self.sharded_files:
            return value
        full = sharding.whole(value)
        return full.cpu() if self.is_global_zero else None


def _like(value: Any, parameter: Tensor) -> Any:
    """A state tensor of the parameter's shape is divided as the parameter is; counters are the same everywhere."""
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return sharding.share_of(value, parameter.detach())
