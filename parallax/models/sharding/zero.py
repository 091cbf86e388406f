"""A network that DeepSpeed's ZeRO trains, and what others need to know about that.

Stage 3 divides all weights: a parameter is empty until a hook of DeepSpeed's in front of its module gathers it. Stage 2 leaves
weights whole. Either way what is trained has a float32 copy, the master, of which each process holds a part of each tensor with
the moments beside it. The masters and moments are what checkpoints hold, as `Shard`s like those of `flat_sharding`; so other
strategies read them, and the other way round.

What computes with weights outside a training step does so inside `gathered`: DeepSpeed's hooks, which would wait for the other
processes at every module, are gone there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from parallax.models import processes
from parallax.models.backbone import base_model
from parallax.models.sharding.fsdp1 import Offset, Shard, whole_of

HELD = "_parallax_zero"  # on the network and on each trained parameter


@dataclass(eq=False)
class Held:
    """A network in DeepSpeed's hands. `engine` is its `DeepSpeedEngine`."""

    engine: Any = field(repr=False)
    gathered: bool = False

    @property
    def optimiser(self) -> Any:
        """DeepSpeed's, around a plain one."""
        return self.engine.optimizer

    @property
    def shards_weights(self) -> bool:
        """Whether it is stage 3."""
        return hasattr(self.optimiser, "parameter_offload")

    @property
    def masters(self) -> list[Tensor]:
        """The flat float32 rows this process holds, keys of the plain optimiser's state."""
        name = "fp32_partitioned_groups_flat" if self.shards_weights else "single_partition_of_fp32_groups"
        rows: list[Tensor] = getattr(self.optimiser, name)
        return rows

    def publish(self) -> None:
        """Have every process compute with the masters as they are now. Called by all at once."""
        optimiser = self.optimiser
        if not self.shards_weights:
            optimiser.update_lp_params()
            return
        optimiser.empty_partition_cache()
        for number in range(len(self.masters)):
            optimiser._reassign_or_swap_out_partitioned_parameters(number)
        optimiser.invalidate_secondary_tensor()
        if optimiser.persistent_parameters:
            optimiser.persistent_parameters[0].all_gather(optimiser.persistent_parameters)


def note(model: Any, engine: Any) -> None:
    """From now on `model` is in the hands of `engine`."""
    network = base_model(model)
    held = Held(engine)
    network.__dict__[HELD] = held
    for parameter in network.parameters():
        if parameter.requires_grad:
            setattr(parameter, HELD, held)


def held_by(value: Any) -> Held | None:
    """What holds a network or a trained parameter, or None."""
    if isinstance(value, nn.Module):
        return base_model(value).__dict__.get(HELD)  # type: ignore[no-any-return]
    return getattr(value, HELD, None)


def release(model: Any) -> None:
    """End what `note` began, so that the weights can leave memory. `model` is of no use any more. Called by all processes.

    DeepSpeed keeps every network that stage 3 has sharded in two places that belong to no engine: a list of modules that are
    being computed, and the cache of a method of its coordinator.
    """
    held = base_model(model).__dict__.pop(HELD, None)
    if held is None:
        return
    for parameter in base_model(model).parameters():
        parameter.__dict__.pop(HELD, None)
    sharded, network = held.shards_weights, held.engine.module
    held.engine.destroy()
    if sharded:
        _forget(network)


def _forget(network: nn.Module) -> None:
    import inspect

    from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

    gone = {id(module) for module in network.modules()}  # layers, too, whose recomputation ended early
    FWD_MODULE_STACK[:] = [module for module in FWD_MODULE_STACK if id(module) not in gone]
    for method in vars(PartitionedParameterCoordinator).values():
        while callable(method):
            if hasattr(method, "cache_clear"):
                method.cache_clear()
            method = inspect.getclosurevars(method).nonlocals.get("func") if inspect.isfunction(method) else None


def shape_of(parameter: Any) -> tuple[int, ...]:
    """The shape of a parameter when it is whole."""
    return tuple(parameter.ds_shape if hasattr(parameter, "ds_shape") else parameter.shape)


# -- parts of what is trained ------------------------------------------------------------------------------------------


def shard_of(parameter: Any, moment: str | None = None) -> Shard:
    """This process's part of a trained parameter's master, or of its `moment` (exp_avg | exp_avg_sq). Not a copy.

    Shape of its `local`: (numbers,), none where other processes hold all of it. float32.
    """
    start, local = _span(parameter, moment)
    return Shard(local, Offset(start, shape_of(parameter), {}))


@torch.no_grad()
def put(parameter: Any, full: Tensor, moment: str | None = None) -> None:
    """Give a trained parameter's master, or its moment, the values of `full`: each process takes its part.

    Masters count once `Held.publish` has been called. Shape of `full`: the whole parameter's.
    """
    start, local = _span(parameter, moment)
    local.copy_(full.reshape(-1)[start : start + local.numel()])


def master_of(parameter: Any) -> Tensor:
    """A trained parameter's float32 values, whole, on every process. Called by all at once. Shape: the whole parameter's."""
    piece = shard_of(parameter)
    return whole_of(piece.local, piece.place)


def _span(parameter: Any, moment: str | None) -> tuple[int, Tensor]:
    """Where the part that this process holds begins in the whole tensor, and the part, a view of the flat row it lies in."""
    held = held_by(parameter)
    assert held is not None, "only what is trained has a master"
    if held.shards_weights:
        group, offset, count = held.optimiser.grad_position[held.optimiser.get_param_id(parameter)]
        master = held.masters[group]
        row = master.detach() if moment is None else held.optimiser.optimizer.state[master][moment]
        start = min(int(count) * processes.rank(), parameter.ds_numel)
        return start, row.narrow(0, int(offset), min(int(count), parameter.ds_numel - start))
    mapping = parameter._hp_mapping
    if mapping is None:
        return 0, parameter.new_zeros(0, dtype=torch.float32)
    part: Tensor = mapping.get_hp_fragment(moment)
    return int(mapping.lp_fragment_address.start), part.detach()


# -- the optimiser's state ---------------------------------------------------------------------------------------------


def steps_made(held: Held) -> Tensor | None:
    """How often the optimiser has stepped, as its state says; None before the first step. Shape: ()."""
    states = [held.optimiser.optimizer.state.get(master) for master in held.masters]
    counts = [state["step"] for state in states if state]
    return torch.as_tensor(counts[0], dtype=torch.float32).cpu() if counts else None


@torch.no_grad()
def begin_states(held: Held, steps: Tensor, moments: tuple[str, ...]) -> None:
    """Give the optimiser the state it would have after `steps` steps, with moments of zero for `put` to fill."""
    states = held.optimiser.optimizer.state
    for master in held.masters:
        zeros = {name: torch.zeros_like(master, requires_grad=False) for name in moments}
        states[master] = {"step": steps.detach().clone().to(torch.float32), **zeros}
    if not held.shards_weights:
        held.optimiser._lazy_init_hp_params_optimizer_state()  # tells parameters where their moments lie


# -- whole weights for a while -----------------------------------------------------------------------------------------


def is_gathered(model: Any) -> bool:
    """Whether this is inside `gathered`."""
    held = held_by(model)
    return held is not None and held.gathered


@contextmanager
def gathered(model: Any) -> Iterator[None]:
    """Inside: every process holds all weights of `model`, and nothing of DeepSpeed's happens while it computes.

    All processes enter and leave together. No optimiser step belongs inside, nor a change of weights.
    """
    held = held_by(model)
    if held is None or held.gathered:
        yield
        return
    held.gathered = True
    try:
        if held.shards_weights:
            with _weights_there(base_model(model)), _without_hooks(held.optimiser.parameter_offload):
                yield
        else:
            yield
    finally:
        held.gathered = False


@contextmanager
def _weights_there(network: nn.Module) -> Iterator[None]:
    import deepspeed

    parameters: list[Any] = list(network.parameters())
    before = [value for value in parameters if value.ds_status.name == "AVAILABLE"]  # small ones always are
    with deepspeed.zero.GatheredParameters(parameters):
        yield
    if before:
        before[0].all_gather(before)


@contextmanager
def _without_hooks(offload: Any) -> Iterator[None]:
    """Inside: the hooks that gather and drop weights are gone. Afterwards they stand where they stood."""
    handles = [*offload.forward_hooks, *offload.backward_hooks]
    places = {id(hooks): hooks for handle in handles if (hooks := handle.hooks_dict_ref()) is not None}
    before = {key: list(hooks.items()) for key, hooks in places.items()}
    for handle in handles:
        hooks = handle.hooks_dict_ref()
        if hooks is not None:
            hooks.pop(handle.id, None)
    try:
        yield
    finally:
        gone = {handle.id for handle in handles}
        for key, hooks in places.items():
            now = dict(hooks)
            hooks.clear()
            hooks.update({name: hook for name, hook in before[key] if name in gone or name in now})
            hooks.update({name: hook for name, hook in now.items() if name not in hooks})


# -- other values for a while ------------------------------------------------------------------------------------------


def computed_with(parameter: Any) -> Tensor:
    """What this process holds of the weights that a pass computes with: a part under stage 3, in the type of the pass."""
    return parameter.ds_tensor if hasattr(parameter, "ds_tensor") else parameter.data  # type: ignore[no-any-return]


@torch.no_grad()
def put_values(model: Any, parameters: Mapping[str, Any], values: Mapping[str, Tensor]) -> None:
    """Have passes compute with other values for the parameters of these names: whole ones, or clones of `computed_with`.

    Masters that are no copies change with them; putting the clones back restores them to the last bit.
    """
    held = held_by(model)
    assert held is not None
    if held.shards_weights:
        held.optimiser.empty_partition_cache()  # nobody goes on with what was gathered before
        held.optimiser.invalidate_secondary_tensor()
    for name, value in values.items():
        parameter = parameters[name]
        mine = computed_with(parameter)
        if value.shape != mine.shape:
            start = min(mine.numel() * processes.rank(), parameter.ds_numel)
            value = value.reshape(-1)[start : start + mine.numel()]
            mine = mine[: len(value)]
        mine.copy_(value)
