"""A network sharded by torch's first FSDP (`FullyShardedDataParallel`), in which the weights of a unit lie in one flat row.

A unit is a layer. All weights of a flat row have one type and are all trained or all frozen, so a layer with LoRA gets two
wrappers: the inner one holds what is frozen, the outer one what is trained. Adapters in float32 on a bfloat16 base then go
together, and gradients exist for what is trained only. Embedding, output head and last norm belong to the outermost unit, the
root. It is kept beside the network, not in it, and whatever computes with the network does so inside the root's forward
(`through_root`): only there are the root's weights whole, and from what comes out the backward pass is told to gather again.

The vision tower is sharded layer by layer only where no image features are kept: else processes would run it a different number
of times, and gathering is done by all together or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffload, MixedPrecision, ShardingStrategy
from torch.distributed.fsdp import FullyShardedDataParallel as Fsdp
from torch.distributed.fsdp._runtime_utils import _reshard

from parallax.models import processes
from parallax.models.backbone import decoder_name
from parallax.models.foreign import VLM
from parallax.models.sharding.base import Offset, Shard, Sharding, joined

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FSDP1Settings:
    """How weights are sharded.

    Args:
        device: where this process computes.
        keep_weights: divide gradients and moments; weights are gathered once per pass and dropped after the backward pass.
        cpu_offload: parts of weights, gradients and moments live in host memory.
        gather_dtype: type in which trained weights are gathered and computed with; None: as they are.
        reduce_dtype: type in which gradients are summed over processes; None: as they are.
    """

    device: torch.device
    keep_weights: bool = False
    cpu_offload: bool = False
    gather_dtype: torch.dtype | None = None
    reduce_dtype: torch.dtype | None = None


class FSDP1(Sharding):
    """Shards `model` over all processes, in place. `vision`: the layers of the vision tower too."""

    def __init__(self, model: VLM, settings: FSDP1Settings, *, vision: bool) -> None:
        super().__init__(model)
        trained = [value for value in self.network.parameters() if value.requires_grad]
        shapes = [tuple(value.shape) for value in trained]
        self.root = _wrapped(self.network, settings, vision)
        self._offsets = _offsets(trained, shapes)

    # -- computing -------------------------------------------------------------------------------------------------

    @contextmanager
    def _weights_gathered(self) -> Iterator[None]:
        with Fsdp.summon_full_params(self.root, writeback=False), self.without_wrappers():
            yield

    def through_root(self, act: Callable[[], T]) -> T:
        """`act()` inside the root's forward; tensors it returns (in a tuple or a dataclass) may be differentiated."""
        network: Any = self.network
        if self.is_gathered:
            return act()
        own = {name: network.__dict__[name] for name in ("forward",) if name in network.__dict__}

        def put_back() -> None:
            network.__dict__.pop("forward", None)
            network.__dict__.update(own)

        def instead(*_: Any, **__: Any) -> T:
            put_back()
            return act()

        network.forward = instead
        try:
            return self.root()  # type: ignore[no-any-return]
        finally:
            put_back()

    @contextmanager
    def without_wrappers(self) -> Iterator[None]:
        wrapped = [
            (parent, name, child)
            for parent in self.network.modules()
            for name, child in parent.named_children()
            if isinstance(child, Fsdp) and not isinstance(parent, Fsdp)
        ]
        for parent, name, child in wrapped:
            setattr(parent, name, _innermost(child))
        try:
            yield
        finally:
            for parent, name, child in wrapped:
                setattr(parent, name, child)

    # -- weights ---------------------------------------------------------------------------------------------------

    def whole(self, value: Tensor, like: nn.Parameter | None = None) -> Tensor:
        shard = self._shard(value, value if like is None else like)
        return value if shard is None else joined(shard)

    def part_of(self, full: Tensor, like: Tensor) -> Tensor:
        offset = self._offset(like)
        if offset is None:
            return full.to(like.device, like.dtype)
        part = full.reshape(-1)[offset.start : offset.start + like.numel()]
        return part.to(like.device, like.dtype).view(like.shape)

    def shard_of(self, value: Tensor, like: nn.Parameter) -> Shard | Tensor:
        shard = self._shard(value, like)
        return value if shard is None else shard

    def shape_of(self, parameter: Tensor) -> tuple[int, ...]:
        offset = self._offset(parameter)
        return tuple(parameter.shape) if offset is None else offset.shape

    @torch.no_grad()
    def put_values(self, parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
        super().put_values(parameters, values)
        if not self.root._is_root:  # nothing has been computed yet
            return
        for module in self.root.modules():  # weights that are still there from a pass without gradients
            if isinstance(module, Fsdp) and module._handle is not None:
                _reshard(module, module._handle, True)

    def _offset(self, parameter: Tensor) -> Offset | None:
        """Where the part of a trained parameter lies; None for any other, and where weights are whole at the moment."""
        return None if self.is_gathered else self._offsets.get(id(parameter))

    def _shard(self, value: Tensor, like: Tensor) -> Shard | None:
        offset = self._offset(like)
        return None if offset is None else Shard(value.detach().reshape(-1), offset)

    # -- gradients -------------------------------------------------------------------------------------------------

    def clip(self, parameters: Sequence[nn.Parameter], limit: float | None, scale: float = 1.0) -> float | None:
        norm = self.root.clip_grad_norm_(inf if limit is None else limit * scale)
        return float(norm) / scale


def _wrapped(network: VLM, settings: FSDP1Settings, vision: bool) -> Any:
    """Every layer of `network` in its wrappers, in place; returns the outermost one."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    decoder = network.get_submodule(decoder_name(network))
    head = network.get_output_embeddings()
    inside = {module for module in decoder.modules() if isinstance(module, GradientCheckpointingLayer)}
    sharded = {id(value) for part in (decoder, head) for value in part.parameters()}
    if vision:
        outside = set(network.modules()) - set(decoder.modules())
        layers = {module for module in outside if isinstance(module, GradientCheckpointingLayer)}
        sharded |= {id(value) for layer in layers for value in layer.parameters()}
        inside |= layers
    whole = [value for value in network.parameters() if id(value) not in sharded and not value.requires_grad]
    places = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if child in inside
    ]
    taken = set[int]()
    for parent, name, layer in places:
        setattr(parent, name, _unit(layer, settings, taken))
    return _unit(network, settings, taken, ignored=whole)


def _unit(
    module: nn.Module, settings: FSDP1Settings, taken: set[int], ignored: list[nn.Parameter] | None = None
) -> nn.Module:
    """`module` in a wrapper for what is frozen and one for what is trained, those that there is a use for.

    `taken`: ids of parameters that a wrapper has already; those of `module` are added.
    """
    kind = ShardingStrategy.SHARD_GRAD_OP if settings.keep_weights else ShardingStrategy.FULL_SHARD
    shared: dict[str, Any] = {
        "sharding_strategy": kind, "device_id": settings.device, "use_orig_params": True, "ignored_states": ignored,
        "cpu_offload": CPUOffload(offload_params=True) if settings.cpu_offload else None,
    }  # fmt: skip
    left = {id(value) for value in ignored or ()}
    mine = [value for value in module.parameters() if id(value) not in left and id(value) not in taken]
    trained = [value for value in mine if value.requires_grad]
    unit = module
    if len(trained) < len(mine):
        with _hidden(module, trained):
            unit = Fsdp(unit, **shared)
    if trained or unit is module:
        cast = MixedPrecision(
            param_dtype=settings.gather_dtype, reduce_dtype=settings.reduce_dtype,
            cast_forward_inputs=False, cast_root_forward_inputs=False,
        )  # fmt: skip
        unit = Fsdp(unit, mixed_precision=cast if settings.gather_dtype or settings.reduce_dtype else None, **shared)
    taken.update(id(value) for value in mine)
    return unit


@contextmanager
def _hidden(module: nn.Module, parameters: list[nn.Parameter]) -> Iterator[None]:
    """Inside: these parameters are not there, so that a wrapper takes the others only."""
    gone = {id(value) for value in parameters}
    places = [
        (owner, name, value)
        for owner in module.modules()
        for name, value in list(owner._parameters.items())
        if id(value) in gone
    ]
    order = {owner: list(owner._parameters) for owner, _, _ in places}
    for owner, name, _ in places:
        del owner._parameters[name]
    try:
        yield
    finally:
        for owner, name, value in places:
            owner._parameters[name] = value
        for owner, names in order.items():  # others may have been put in anew
            owner._parameters = {name: owner._parameters[name] for name in names if name in owner._parameters} | {
                name: value for name, value in owner._parameters.items() if name not in names
            }


def _offsets(parameters: list[nn.Parameter], shapes: list[tuple[int, ...]]) -> dict[int, Offset]:
    """Where the part of each parameter begins, by its id: each process holds the numbers that follow those of the one before."""
    counts = processes.all_gather([value.numel() for value in parameters])
    before = counts[: processes.rank()]
    return {
        id(value): Offset(sum(sizes[place] for sizes in before), shape)
        for place, (value, shape) in enumerate(zip(parameters, shapes, strict=True))
    }


def _innermost(module: nn.Module) -> nn.Module:
    while isinstance(module, Fsdp):
        module = module.module
    return module
