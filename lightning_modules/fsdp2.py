"""Training with weights, gradients and optimiser states sharded over processes: torch's fully_shard under Lightning."""

from __future__ import annotations

from datetime import timedelta

from pytorch_lightning.strategies import ModelParallelStrategy

from lightning_modules.sharded_checkpoints import ShardedCheckpoints
from parallax.models.policy import Policy
from parallax.models.sharding.fsdp2 import FSDP2


class FSDP2Strategy(ShardedCheckpoints, ModelParallelStrategy):
    """One mesh of all processes; which modules are sharded is the matter of `parallax.models.sharding.fsdp2`.

    Args:
        sharded_files: checkpoints are folders with a file per process; False gathers them into one file.
        timeout: longest wait for another process.
    """

    def __init__(self, *, sharded_files: bool = True, timeout: timedelta) -> None:
        super().__init__(data_parallel_size=1, tensor_parallel_size=1, timeout=timeout)
        self.sharded_files = sharded_files

    def shard(self, policy: Policy) -> None:
        policy.shard(lambda model: FSDP2(policy.model, self.device_mesh["data_parallel"]))

    def setup_environment(self) -> None:
        """Every process is a part of the data-parallel dimension."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
