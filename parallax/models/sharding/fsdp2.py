"""Weights sharded by torch's fully_shard (FSDP2): each process holds some rows of each.

Each decoder layer is a unit: its weights are gathered when it computes and dropped again afterwards. Embedding, output head and
last norm are one more. The vision tower and a frozen projector stay whole in every process: they are a few per cent of a
model, and how often they run differs between processes, as image features are kept and found again (`image_features.py`),
while gathering is done by all processes together or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from parallax.models.backbone import decoder_name
from parallax.models.foreign import VLM
from parallax.models.sharding.base import Offset, Shard, Sharding

Act = Callable[[nn.Module], None]


class FSDP2(Sharding):
    """Shards `model` over the processes of `mesh`, in place.

    `before` and `after` are called with each part as it is sharded: layers, and the whole network last. They may put weights
    in place that were not there yet.
    """

    def __init__(self, model: VLM, mesh: DeviceMesh, *, before: Act | None = None, after: Act | None = None) -> None:
        super().__init__(model)
        _shard(self.network, mesh, before, after)
        self.units: list[Any] = [module for module in self.network.modules() if isinstance(module, FSDPModule)]

    @contextmanager
    def _weights_gathered(self) -> Iterator[None]:
        for unit in self.units:
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()
        try:
            yield
        finally:
            for place, unit in enumerate(self.units):
                unit.reshard()
                unit.set_reshard_after_forward(place > 0, recurse=False)

    def readable(self) -> AbstractContextManager[None]:
        """At any time: and reading weights out inside `gathered` would shard them again."""
        return nullcontext()

    def whole(self, value: Tensor, like: nn.Parameter | None = None) -> Tensor:
        return value.full_tensor() if isinstance(value, DTensor) else value

    def part_of(self, full: Tensor, like: Tensor) -> Tensor:
        if not isinstance(like, DTensor):
            return full.to(like.device, like.dtype)
        local = like.to_local()
        start, length = rows_of(like)
        part = full[start : start + length].to(local.device, local.dtype)
        return DTensor.from_local(
            part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )

    def shard_of(self, value: Tensor, like: nn.Parameter) -> Shard | Tensor:
        if not isinstance(value, DTensor):
            return value
        shape, local = tuple(value.shape), value.to_local().detach()
        return Shard(local.reshape(-1), Offset(rows_of(value)[0] * prod(shape[1:]), shape))

    @torch.no_grad()
    def put_values(self, parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
        super().put_values(parameters, values)
        for unit in self.units:
            unit.reshard()

    def norm_of(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        return self.whole(super().norm_of(parameters))  # each process knows its share only


def rows_of(value: DTensor) -> tuple[int, int]:
    """First row and number of rows that this process holds of a tensor sharded along its first dimension."""
    shape, offset = compute_local_shape_and_global_offset(value.shape, value.device_mesh, value.placements)
    return int(offset[0]), int(shape[0])


def _shard(network: VLM, mesh: DeviceMesh, before: Act | None, after: Act | None) -> None:
    from transformers.modeling_layers import GradientCheckpointingLayer

    act: Callable[[Act | None, nn.Module], None] = lambda do, part: do(part) if do is not None else None  # noqa: E731
    decoder = network.get_submodule(decoder_name(network))
    head = network.get_output_embeddings()
    for layer in decoder.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            act(before, layer)
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)
            act(after, layer)
    act(before, network)
    sharded = {id(value) for part in (decoder, head) for value in part.parameters()}
    whole = {value for value in network.parameters() if id(value) not in sharded and not value.requires_grad}
    fully_shard(network, mesh=mesh, reshard_after_forward=False, ignored_params=whole)
    act(after, network)
    if any(value.requires_grad and id(value) not in sharded for value in network.parameters()):
        register_fsdp_forward_method(network, "get_image_features")  # a projector that learns works there
