"""The processes of this run, as torch.distributed knows them. A program that runs alone is the first of one.

Every function that waits or exchanges has to be called by all processes, in the same order.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _together() else 1


def number() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if _together() else 0


def is_first() -> bool:
    """Whether this process is the one that writes what all have in common."""
    return number() == 0


def wait() -> None:
    """Go on when every process has come here."""
    if count() > 1:
        dist.barrier()


def from_first(value: T) -> T:
    """The first process's `value`, on every process."""
    if count() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


def from_all(value: T) -> list[T]:
    """Every process's `value`, in the order of their numbers."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    return values


def mesh(device: str) -> Any:
    """All processes in a row, for weights that are divided over them; None for a program that runs alone."""
    if count() == 1:
        return None
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device.partition(":")[0], (count(),), mesh_dim_names=("data_parallel",))


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()
