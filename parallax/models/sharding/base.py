"""How the weights of a network lie over the processes, and all that follows from it, as one object.

The policy has it (`policy.sharding`): `Whole`, or `FSDP2`, `FSDP1`, `Zero`, a file each. Whoever trains, generates, names weights
or writes a checkpoint asks it; nobody asks which strategy this is. What exchanges something between processes is called by all
of them at once, in the same order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from math import inf, prod
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from parallax.models import processes
from parallax.models.backbone import base_model
from parallax.models.foreign import VLM

T = TypeVar("T")
BUCKET_ELEMENTS = 16 * 2**20  # most elements copied together for one reduction: 64 MiB of float32
WRAPPED = "_fsdp_wrapped_module."  # what each wrapper of FSDP1 adds to the names of what is inside


@dataclass(frozen=True, slots=True)
class Offset:
    """Where the part that a process holds begins in a whole tensor of `shape`, whose numbers are taken in a row."""

    start: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of a tensor, as checkpoints have it. Shape of `local`: (numbers,); none where this process holds nothing of it."""

    local: Tensor
    offset: Offset


def plain_name(name: str) -> str:
    """A parameter's name without what wrappers have added."""
    return name.replace(WRAPPED, "")


class Sharding(ABC):
    """What is asked of a network's weights while it generates, trains and is written.

    Args:
        model: the network, with or without an adapter.
    """

    is_sharded: ClassVar[bool] = True  # other processes hold a part of the weights, or of what is trained of them
    averages_gradients: ClassVar[bool] = True  # the backward pass takes the mean over processes, where a sum is meant

    def __init__(self, model: VLM) -> None:
        self.network = base_model(model)
        self.is_gathered = False  # all weights are here, and this process may compute whatever the others do

    # -- computing -------------------------------------------------------------------------------------------------

    @abstractmethod
    def _weights_gathered(self) -> AbstractContextManager[None]:
        """Inside: every process holds all weights."""

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Inside: every process holds all weights and may compute as much or as little as it likes.

        All processes enter and leave together. Costs the memory of the whole model. No optimiser step belongs inside, nor
        a change of weights.
        """
        if self.is_gathered:
            yield
            return
        with self._weights_gathered():
            self.is_gathered = True
            try:
                yield
            finally:
                self.is_gathered = False

    def readable(self) -> AbstractContextManager[None]:
        """Inside, the model's `state_dict()` holds tensors that `whole` puts together."""
        return self.gathered()

    def through_root(self, act: Callable[[], T]) -> T:
        """`act()` where the network may be computed with; tensors it returns may be differentiated."""
        return act()

    def without_wrappers(self) -> AbstractContextManager[None]:
        """Inside: modules have their own places and names. Nothing may be computed unless weights are gathered."""
        return nullcontext()

    def release(self) -> None:  # noqa: B027
        """Have the weights leave memory together with this network, which is of no use from now on."""

    # -- weights ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def whole(self, value: Tensor, like: nn.Parameter | None = None) -> Tensor:
        """A sharded parameter put together, or a tensor that is sharded as the parameter `like` is; any other as it is."""

    @abstractmethod
    def part_of(self, full: Tensor, like: Tensor) -> Tensor:
        """What this process holds of `full` when it is sharded as the parameter `like` is: on its device, in its type."""

    @abstractmethod
    def shard_of(self, value: Tensor, like: nn.Parameter) -> Shard | Tensor:
        """`value`, sharded as the parameter `like` is, as it goes into a checkpoint of many files. Not a copy."""

    def shape_of(self, parameter: Tensor) -> tuple[int, ...]:
        """The shape of a parameter when it is whole."""
        return tuple(parameter.shape)

    def values_here(self, parameter: nn.Parameter) -> Tensor:
        """What this process holds of a trained parameter. Not a copy."""
        return parameter.detach()

    @torch.no_grad()
    def take_weights(self, parameters: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]) -> None:
        """Put whole tensors into the parameters of these names, each process its own part."""
        for name, value in state.items():
            parameters[name].copy_(self.part_of(value, parameters[name]))

    @torch.no_grad()
    def put_values(self, parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
        """Give the parameters of these names other values, whole ones or copies of `values_here`, and have all gather anew."""
        for name, value in values.items():
            parameter = parameters[name]
            is_part = value.shape == parameter.shape and type(value) is type(parameter.data)
            parameter.copy_(value if is_part else self.part_of(value, parameter))

    @torch.no_grad()
    def train_in_float32(self) -> None:
        """Turn what is trained into float32, in place."""
        if any(value.requires_grad and value.dtype != torch.float32 for value in self.network.parameters()):
            self.network._apply(lambda value: value.float() if value.requires_grad else value)

    # -- gradients -------------------------------------------------------------------------------------------------

    def before_backward(self, *, last: bool) -> None:  # noqa: B027
        """Called before each backward pass of a step; `last`: gradients are complete after it."""

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:  # noqa: B027
        """Called once a step where there are several processes: from here on every one has the gradients of all."""

    def norm_of(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Euclidean norm of all gradients together, over all shards. Shape: ()."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        return torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())

    def clip(self, parameters: Sequence[nn.Parameter], limit: float | None, scale: float = 1.0) -> float | None:
        """Scale all gradients by min(1, limit / norm), and return the norm before; None where the step measures and clips.

        `scale` is what losses were multiplied with (float16): norm and limit are those of gradients without it. Waits for the
        device.
        """
        norm = self.norm_of(parameters) / scale
        if limit is not None and parameters:
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm.to(parameters[0].device))
        return float(norm)

    def leave_out(self, parameters: Sequence[nn.Parameter], *, scaled: bool = False) -> None:
        """Have the next optimiser step change nothing. `scaled`: a loss scaler makes it, and skips it for infinite gradients."""
        for parameter in parameters:
            if scaled and parameter.grad is not None:
                parameter.grad.fill_(inf)
            else:
                parameter.grad = None

    def after_step(self, norm: float | None, fault: str | None) -> tuple[float, str | None]:
        """The gradient's norm, and what was not finite (`loss`, `gradient` or nothing), once the optimiser has stepped."""
        assert norm is not None
        return norm, fault


class Whole(Sharding):
    """Nothing is sharded: a lone process, or DDP, where each has its share of a step's pairs."""

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


def joined(shard: Shard) -> Tensor:
    """The parts of all processes as one tensor; called by all at once."""
    count = prod(shard.offset.shape)
    flat = shard.local.detach().reshape(-1)
    sizes = processes.all_gather(flat.numel())
    if sum(sizes) != count:
        raise RuntimeError(f"the processes hold {sum(sizes)} numbers of a tensor of {count}")
    device = torch.device("cuda") if torch.distributed.get_backend() == "nccl" else flat.device
    sent = flat.new_zeros(max(sizes), device=device)
    sent[: flat.numel()] = flat
    parts = [torch.empty_like(sent) for _ in sizes]
    torch.distributed.all_gather(parts, sent)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]).view(shard.offset.shape)
