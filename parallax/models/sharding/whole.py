"""Weights that are whole in every process: a lone one, or DDP, where each has its share of a step's pairs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

import torch
from torch import Tensor, nn

from parallax.models import processes
from parallax.models.foreign import VLM
from parallax.models.sharding.base import Shard, Sharding

BUCKET_ELEMENTS = 16 * 2**20  # most elements copied together for one reduction: 64 MiB of float32


class Whole(Sharding):
    """Nothing is sharded. Gradients are summed over processes once per optimiser step, whatever micro-batches each had."""

    is_sharded: ClassVar[bool] = False
    averages_gradients: ClassVar[bool] = False

    def __init__(self, model: VLM) -> None:
        super().__init__(model)
        self.is_gathered = True

    def _weights_gathered(self) -> AbstractContextManager[None]:
        return nullcontext()

    def whole(self, value: Tensor, like: nn.Parameter | None = None) -> Tensor:
        return value

    def part_of(self, full: Tensor, like: Tensor) -> Tensor:
        return full.to(like.device, like.dtype)

    def shard_of(self, value: Tensor, like: nn.Parameter) -> Shard | Tensor:
        return value

    @torch.no_grad()
    def train_in_float32(self) -> None:
        for value in self.network.parameters():
            if value.requires_grad:
                value.data = value.data.float()

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        if processes.world_size() > 1:
            sum_over_processes(parameters)


def sum_over_processes(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its sum over all processes; every process ends with the same numbers.

    A parameter without a gradient here may have one elsewhere, so it counts as zero. Called once per optimiser step, after all
    micro-batches: how many of them a process had does not matter.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _buckets(parameters):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        torch.distributed.all_reduce(flat)
        for gradient, summed in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            gradient.copy_(summed.view_as(gradient))


def _buckets(parameters: Sequence[nn.Parameter]) -> list[list[Tensor]]:
    buckets: list[list[Tensor]] = []
    filled = BUCKET_ELEMENTS
    for parameter in parameters:
        gradient = parameter.grad
        assert gradient is not None
        if filled + gradient.numel() > BUCKET_ELEMENTS or buckets[-1][0].dtype != gradient.dtype:
            buckets.append([])
            filled = 0
        buckets[-1].append(gradient)
        filled += gradient.numel()
    return buckets
