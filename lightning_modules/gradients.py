"""What happens to gradients between backward and step: summed over processes, measured, clipped."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

BUCKET_ELEMENTS = 16 * 2**20  # most elements copied together for one reduction: 64 MiB of float32


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


def norm_of(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Euclidean norm of all gradients together, over all shards. Shape: ()."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros(())
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # a sharded tensor knows its share only


def clip_to(parameters: Sequence[nn.Parameter], max_norm: float, norm: Tensor) -> None:
    """Scale all gradients by min(1, max_norm / norm)."""
    torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
