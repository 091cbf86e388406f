"""Training with weights, gradients and optimiser states sharded over processes: torch's first FSDP under Lightning.

Lightning would wrap the whole module, with one flat row of weights per layer; a frozen base and its adapter, of two types, do not
go together in one (`parallax/models/sharding/fsdp1.py` says what is done here). It also refuses CPUs, where torch itself computes
well: with it two processes on a CPU are tested.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning.plugins.precision import FSDPPrecision
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch import nn

from lightning_modules.sharded_checkpoints import ShardedCheckpoints
from parallax.models.policy import Policy
from parallax.models.sharding.fsdp1 import FSDP1, FSDP1Settings
from parallax.models.sharding.fsdp2 import FSDP2
from parallax.settings.groups import Fsdp

if TYPE_CHECKING:
    from lightning_fabric.plugins.precision.fsdp import _PRECISION_INPUT as PrecisionInput


class FSDP1Strategy(ShardedCheckpoints, FSDPStrategy):
    """Lightning's `FSDPStrategy` around a network that is sharded already.

    Args:
        sharded_files: checkpoints are folders with a file per process; False gathers them into one file.
        timeout: longest wait for another process.
        settings: what is sharded, whether it is kept in host memory, and types.
    """

    def __init__(self, *, sharded_files: bool = True, timeout: timedelta, settings: Fsdp) -> None:
        super().__init__(timeout=timeout, cpu_offload=settings.cpu_offload)
        self.sharded_files, self.given = sharded_files, settings

    def shard(self, policy: Policy) -> None:
        self.precision_plugin.convert_module(policy.model)  # later it would be too late
        policy.shard(lambda model: FSDP1(policy.model, self.fsdp1_settings, vision=policy.features is None))

    @property
    def fsdp1_settings(self) -> FSDP1Settings:
        """How weights are sharded."""
        device, types = self.root_device, (self.given.gather_dtype, self.given.reduce_dtype)
        gather, reduce = (getattr(torch, name) if name else None for name in types)
        keep = self.given.sharding == "gradients"
        return FSDP1Settings(device, keep, self.given.cpu_offload, gather, reduce)

    @property
    def root_device(self) -> torch.device:
        assert self.parallel_devices is not None
        return self.parallel_devices[self.local_rank]

    def _setup_model(self, model: nn.Module) -> nn.Module:
        return model  # sharded already


class FSDP1Precision(FSDPPrecision):
    """Lightning's, which knows GPUs only: autocast on the device there is."""

    def __init__(self, precision: PrecisionInput, device: str) -> None:
        super().__init__(precision)
        self.device = device

    def forward_context(self) -> AbstractContextManager[Any]:
        """As with every other strategy: autocast for mixed precision, nothing else."""
        if "mixed" in self.precision:
            kind = torch.bfloat16 if self.precision == "bf16-mixed" else torch.float16
            return torch.autocast(self.device, dtype=kind)
        return super().forward_context()


class SummedStrategy(DDPStrategy):
    """Lightning's `DDPStrategy` without torch's wrapper, whose buckets would hold every gradient a second time.

    Gradients are summed once per optimiser step by `parallax.models.sharding.whole`. As with the wrapper,
    processes begin with the first one's values of what is trained; everything else they have read from the same files.
    """

    def configure_ddp(self) -> None:
        assert self.model is not None
        with torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    torch.distributed.broadcast(parameter, 0)


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
