"""The processes of this run, as torch.distributed knows them. A program that runs alone is the first of one.

Every function that waits or exchanges has to be called by all processes, in the same order.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _together() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if _together() else 0


def is_first() -> bool:
    """Whether this process is the one that writes what all have in common."""
    return rank() == 0


def barrier() -> None:
    """Go on when every process has come here."""
    if world_size() > 1:
        dist.barrier()


def broadcast(value: T) -> T:
    """The first process's `value`, on every process."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


def all_gather(value: T) -> list[T]:
    """Every process's `value`, in the order of their numbers."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def mesh(device: str) -> Any:
    """All processes in a row, for weights that are sharded over them; None for a program that runs alone."""
    if world_size() == 1:
        return None
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device.partition(":")[0], (world_size(),), mesh_dim_names=("data_parallel",))


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()
