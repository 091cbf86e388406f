"""A network divided by torch's first FSDP (`FullyShardedDataParallel`), in which the weights of a unit lie in one flat row.

A unit is a layer. All weights of a flat row have one type and are all trained or all frozen, so a layer with LoRA gets two
wrappers: the inner one holds what is frozen, the outer one what is trained. Adapters in float32 on a bfloat16 base then go
together, and gradients exist for what is trained only. Embedding, output head and last norm belong to the outermost unit, the
root. It is kept beside the network, not in it, and whatever computes with the network does so inside the root's forward
(`through_root`): only there are the root's weights whole, and from what comes out the backward pass is told to gather again.

The vision tower is divided by its layers only where no image features are kept: else processes would run it a different number
of times, and gathering is done by all together or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from parallax.models import processes
from parallax.models.backbone import base_model, decoder_name

T = TypeVar("T")
ROOT, GATHERED, PLACE = "_parallax_root", "_parallax_gathered", "_parallax_place"
WRAPPED = "_fsdp_wrapped_module."  # what each wrapper adds to the names of what is inside


@dataclass(frozen=True, slots=True)
class Offset:
    """Where the part that this process holds lies in a whole tensor, whose numbers are taken in a row.

    `network` is the attributes of the network it belongs to, which say whether its weights are whole at the moment.
    """

    start: int
    shape: tuple[int, ...]
    network: dict[str, Any] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of a tensor. Shape of `local`: (numbers,); none where this process holds nothing of it."""

    local: Tensor
    place: Offset


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


def shard(model: Any, settings: FSDP1Settings, *, vision: bool) -> None:
    """Divide the weights of `model` over all processes, in place. `vision`: the layers of the vision tower too."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    network = base_model(model)
    if root_of(network) is not None:
        return
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
    trained = [value for value in network.parameters() if value.requires_grad]
    shapes = [tuple(value.shape) for value in trained]
    places = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if child in inside
    ]
    for parent, name, layer in places:
        setattr(parent, name, _unit(layer, settings))
    network.__dict__[ROOT] = _unit(network, settings, ignored=whole)
    _note_places(trained, shapes, network.__dict__)


def _unit(module: nn.Module, settings: FSDP1Settings, ignored: list[nn.Parameter] | None = None) -> nn.Module:
    """`module` in a wrapper for what is frozen and one for what is trained, those that there is a use for."""
    from torch.distributed.fsdp import CPUOffload, MixedPrecision, ShardingStrategy
    from torch.distributed.fsdp import FullyShardedDataParallel as Fsdp

    kind = ShardingStrategy.SHARD_GRAD_OP if settings.keep_weights else ShardingStrategy.FULL_SHARD
    shared: dict[str, Any] = {
        "sharding_strategy": kind, "device_id": settings.device, "use_orig_params": True, "ignored_states": ignored,
        "cpu_offload": CPUOffload(offload_params=True) if settings.cpu_offload else None,
    }  # fmt: skip
    left = {id(value) for value in ignored or ()}
    mine = [value for value in module.parameters() if id(value) not in left and not hasattr(value, PLACE)]
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
    for value in mine:
        setattr(value, PLACE, None)
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


def _note_places(parameters: list[nn.Parameter], shapes: list[tuple[int, ...]], network: dict[str, Any]) -> None:
    """Each process holds the numbers that follow those of the process before it."""
    counts = processes.all_gather([value.numel() for value in parameters])
    me = processes.rank()
    for place, (value, shape) in enumerate(zip(parameters, shapes, strict=True)):
        start = sum(counts[number][place] for number in range(me))
        setattr(value, PLACE, Offset(start, shape, network))


def root_of(model: Any) -> Any:
    """The outermost wrapper of a network that is sharded this way, or None."""
    return base_model(model).__dict__.get(ROOT)


def plain_name(name: str) -> str:
    """A parameter's name without what wrappers have added."""
    return name.replace(WRAPPED, "")


def through_root(model: Any, act: Callable[[], T]) -> T:
    """`act()` inside the root's forward; tensors it returns (in a tuple or a dataclass) may be differentiated."""
    network = base_model(model)
    root = network.__dict__.get(ROOT)
    if root is None or network.__dict__.get(GATHERED):
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
        return root()  # type: ignore[no-any-return]
    finally:
        put_back()


@contextmanager
def gathered(model: Any) -> Iterator[None]:
    """Inside: all weights are whole in every process and the wrappers are out of the way."""
    from torch.distributed.fsdp import FullyShardedDataParallel as Fsdp

    network = base_model(model)
    root = network.__dict__.get(ROOT)
    if root is None or network.__dict__.get(GATHERED):
        yield
        return
    with Fsdp.summon_full_params(root, writeback=False), without_wrappers(network):
        network.__dict__[GATHERED] = True
        try:
            yield
        finally:
            network.__dict__[GATHERED] = False


@contextmanager
def without_wrappers(model: Any) -> Iterator[None]:
    """Inside: layers stand in their own places, under their own names. Nothing may be computed unless weights are gathered."""
    from torch.distributed.fsdp import FullyShardedDataParallel as Fsdp

    wrapped = [
        (parent, name, child)
        for parent in base_model(model).modules()
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


def drop_gathered(model: Any) -> None:
    """Forget weights that are still there from a pass without gradients: their values have changed."""
    from torch.distributed.fsdp import FullyShardedDataParallel as Fsdp
    from torch.distributed.fsdp._runtime_utils import _reshard

    root = root_of(model)
    if root is None or not root._is_root:  # nothing has been computed yet
        return
    for module in root.modules():
        if isinstance(module, Fsdp) and module._handle is not None:
            _reshard(module, module._handle, True)


def is_gathered(model: Any) -> bool:
    """Whether this is inside `gathered`."""
    return bool(base_model(model).__dict__.get(GATHERED))


def _innermost(module: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel as Fsdp

    while isinstance(module, Fsdp):
        module = module.module
    return module


def offset_of(parameter: Any) -> Offset | None:
    """Where the part of a sharded, trained parameter lies; None for any other, and for one that is whole at the moment."""
    place: Offset | None = getattr(parameter, PLACE, None)
    return None if place is None or place.network.get(GATHERED) else place


def whole_of(local: Tensor, place: Offset) -> Tensor:
    """The parts of all processes as one tensor; called by all at once."""
    count = place_size(place)
    flat = local.detach().reshape(-1)
    sizes = processes.all_gather(flat.numel())
    if sum(sizes) != count:
        raise RuntimeError(f"the processes hold {sum(sizes)} numbers of a tensor of {count}")
    device = torch.device("cuda") if torch.distributed.get_backend() == "nccl" else flat.device
    sent = flat.new_zeros(max(sizes), device=device)
    sent[: flat.numel()] = flat
    parts = [torch.empty_like(sent) for _ in sizes]
    torch.distributed.all_gather(parts, sent)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]).view(place.shape)


def part_of(full: Tensor, like: Tensor, place: Offset) -> Tensor:
    """What this process holds of `full`, on the device and in the type of `like`. Shape: that of `like`."""
    part = full.reshape(-1)[place.start : place.start + like.numel()]
    return part.to(like.device, like.dtype).view(like.shape)


def place_size(place: Offset) -> int:
    """Numbers in the whole tensor."""
    return torch.Size(place.shape).numel()
