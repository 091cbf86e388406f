"""A network whose language model is sharded over processes, and what others need to know about that.

Here it is torch's fully_shard (FSDP2) that divides; `fsdp1.py` is about its predecessor, `zero.py` about
DeepSpeed. What is asked of a sharded network is asked here, whichever it was.

Each decoder layer is a unit: its weights are gathered when it computes and dropped again afterwards. Embedding, output head and
last norm are one more. The vision tower and a frozen projector stay whole in every process: they are a few per cent of a
model, and how often they run differs between processes, as image features are kept and found again (`feature_cache.py`),
while gathering is done by all processes together or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from parallax.models.backbone import base_model, decoder_name
from parallax.models.sharding import fsdp1, zero
from parallax.models.sharding.fsdp1 import Offset, plain_name, through_root

Act = Callable[[nn.Module], None]


def shard(model: Any, mesh: Any, *, before: Act | None = None, after: Act | None = None) -> None:
    """Divide the weights of `model` over the processes of `mesh`, in place. Harmless to call twice.

    `before` and `after` are called with each part as it is sharded: layers, and the whole network last. They may put weights
    in place that were not there yet.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
    from transformers.modeling_layers import GradientCheckpointingLayer

    network = base_model(model)
    if is_sharded(network):
        return
    decoder = network.get_submodule(decoder_name(network))
    head = network.get_output_embeddings()
    for layer in decoder.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            _tell(before, layer)
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)
            _tell(after, layer)
    _tell(before, network)
    sharded = {id(value) for part in (decoder, head) for value in part.parameters()}
    whole = {value for value in network.parameters() if id(value) not in sharded and not value.requires_grad}
    fully_shard(network, mesh=mesh, reshard_after_forward=False, ignored_params=whole)
    _tell(after, network)
    if any(value.requires_grad and id(value) not in sharded for value in network.parameters()):
        register_fsdp_forward_method(network, "get_image_features")  # a projector that learns works there


def _tell(act: Act | None, part: nn.Module) -> None:
    if act is not None:
        act(part)


def units(model: Any) -> list[Any]:
    """The modules whose weights are gathered together; none in a network that is not sharded."""
    from torch.distributed.fsdp import FSDPModule

    return [module for module in base_model(model).modules() if isinstance(module, FSDPModule)]


def is_sharded(model: Any) -> bool:
    """Whether the weights of `model`, or under DeepSpeed's stage 2 what is trained of them, are sharded over processes."""
    return bool(units(model)) or fsdp1.root_of(model) is not None or zero.held_by(model) is not None


def is_gathered(model: Any) -> bool:
    """Whether this is inside `gathered`."""
    return (
        fsdp1.is_gathered(model)
        or zero.is_gathered(model)
        or any(getattr(part, "_parallax_gathered", False) for part in units(model)[:1])
    )


@contextmanager
def gathered(model: Any) -> Iterator[None]:
    """Inside: every process holds all weights of `model` and may compute as much or as little as it likes.

    All processes enter and leave together. Costs the memory of the whole model. No optimiser step belongs inside.
    """
    if fsdp1.root_of(model) is not None or zero.held_by(model) is not None:
        with readable(model):
            yield
        return
    parts = units(model)
    if not parts or is_gathered(model):
        yield
        return
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    parts[0]._parallax_gathered = True
    try:
        yield
    finally:
        parts[0]._parallax_gathered = False
        for place, part in enumerate(parts):
            part.reshard()
            part.set_reshard_after_forward(place > 0, recurse=False)


def readable(model: Any) -> AbstractContextManager[None]:
    """Inside, `model.state_dict()` holds tensors that `whole` puts together; by all processes at once.

    Those of `fully_shard` are so at any time, and reading them inside `gathered` would divide them again.
    """
    if fsdp1.root_of(model) is not None:
        return fsdp1.gathered(model)
    return zero.gathered(model) if zero.held_by(model) is not None else nullcontext()


def whole(value: Tensor) -> Tensor:
    """A sharded parameter put together (by all processes at once); any other tensor as it is."""
    if zero.held_by(value) is not None:
        return zero.master_of(value)
    if (place := fsdp1.offset_of(value)) is not None:
        return fsdp1.whole_of(value, place)
    return value.full_tensor() if hasattr(value, "full_tensor") else value  # type: ignore[no-any-return]


def share_of(full: Tensor, like: Any) -> Tensor:
    """`full` sharded the way the parameter `like` is, on its device and in its type: each process cuts out its own part."""
    if (place := fsdp1.offset_of(like)) is not None:
        return fsdp1.part_of(full, like, place)
    if not hasattr(like, "device_mesh"):
        return full.to(like.device, like.dtype)
    from torch.distributed.tensor import DTensor

    local = like.to_local()
    start, length = rows_of(like)
    part = full[start : start + length].to(local.device, local.dtype)
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def rows_of(value: Any) -> tuple[int, int]:
    """First row and number of rows that this process holds of a tensor sharded along its first dimension."""
    if not hasattr(value, "device_mesh"):
        return 0, value.shape[0] if value.ndim else 0
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(value.shape, value.device_mesh, value.placements)
    return int(offset[0]), int(shape[0])


@torch.no_grad()
def take_weights(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Put whole tensors into the parameters of these names, each process its own part."""
    parameters = {plain_name(name): value for name, value in module.named_parameters()}
    held = next((found for name in state if (found := zero.held_by(parameters[name])) is not None), None)
    for name, value in state.items():
        if held is not None:
            zero.put(parameters[name], value)
        else:
            parameters[name].copy_(share_of(value, parameters[name]))
    if held is not None:
        held.publish()


@torch.no_grad()
def train_in_float32(model: Any) -> None:
    """Turn what is trained into float32, in place, whether it is sharded already or not. DeepSpeed has masters for that."""
    if zero.held_by(model) is not None:
        return
    trained = [value for value in model.parameters() if value.requires_grad and value.dtype != torch.float32]
    if trained and is_sharded(model):
        base_model(model)._apply(lambda value: value.float() if value.requires_grad else value)
    for value in [] if is_sharded(model) else trained:
        value.data = value.data.float()


@torch.no_grad()
def put_values(model: Any, parameters: dict[str, Any], values: dict[str, Tensor]) -> None:
    """Give the parameters of these names other values, whole ones or copies of `values_here`, and have all gather anew."""
    if zero.held_by(model) is not None:
        zero.put_values(model, parameters, values)
        return
    for name, value in values.items():
        parameter = parameters[name]
        is_part = value.shape == parameter.shape and hasattr(value, "device_mesh") == hasattr(parameter, "device_mesh")
        parameter.copy_(value if is_part else share_of(value, parameter))
    for part in units(model):
        part.reshard()
    fsdp1.drop_gathered(model)


def values_here(parameter: Any) -> Tensor:
    """What this process holds of a trained parameter. Not a copy."""
    if zero.held_by(parameter) is not None:
        return zero.computed_with(parameter)
    return parameter.detach()  # type: ignore[no-any-return]


def offset_of(parameter: Any) -> Offset | None:
    """Where the part that this process holds of a sharded parameter lies; None for one that is whole."""
    if not hasattr(parameter, "device_mesh"):
        return fsdp1.offset_of(parameter)
    shape = tuple(parameter.shape)
    return Offset(rows_of(parameter)[0] * prod(shape[1:]), shape, {})


def shape_of(parameter: Any) -> tuple[int, ...]:
    """The shape of a parameter when it is whole."""
    if zero.held_by(parameter) is not None:
        return zero.shape_of(parameter)
    place = fsdp1.offset_of(parameter)
    return tuple(parameter.shape) if place is None else place.shape


__all__ = [
    "gathered", "is_gathered", "is_sharded", "offset_of", "plain_name", "put_values", "readable", "rows_of", "shape_of",
    "shard", "share_of", "take_weights", "through_root", "train_in_float32", "units", "values_here", "whole",
]  # fmt: skip
