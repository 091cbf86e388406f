"""A network that DeepSpeed's ZeRO trains, and what others need to know about that.

Stage 3 divides all weights: a parameter is empty until a hook of DeepSpeed's in front of its module gathers it. Stage 2 leaves
weights whole. Either way what is trained has a float32 copy, the master, of which each process holds a part of each tensor with
the moments beside it. The masters and moments are what checkpoints hold, as `Shard`s like those of other strategies, which
read them, and the other way round.

What computes with weights outside a training step does so inside `gathered`: DeepSpeed's hooks, which would wait for the other
processes at every module, are gone there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from parallax.models import processes
from parallax.models.foreign import VLM
from parallax.models.sharding.base import Offset, Shard, Sharding, joined


class Zero(Sharding):
    """A network in the hands of `engine`, a `DeepSpeedEngine`."""

    def __init__(self, model: VLM, engine: Any) -> None:
        super().__init__(model)
        self.engine = engine
        self._trained = {id(parameter) for parameter in self.network.parameters() if parameter.requires_grad}

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
        optimiser = self.optimiser
        rows: list[Tensor] = (
            optimiser.fp32_partitioned_groups_flat if self.shards_weights else optimiser.single_partition_of_fp32_groups
        )
        return rows

    # -- computing -------------------------------------------------------------------------------------------------

    def _weights_gathered(self) -> AbstractContextManager[None]:
        return self._here_without_hooks() if self.shards_weights else nullcontext()

    @contextmanager
    def _here_without_hooks(self) -> Iterator[None]:
        with _weights_there(self.network), _without_hooks(self.optimiser.parameter_offload):
            yield

    def release(self) -> None:
        """Called by all processes.

        DeepSpeed keeps every network that stage 3 has sharded in two places that belong to no engine: a list of modules that are
        being computed, and the cache of a method of its coordinator.
        """
        sharded, network = self.shards_weights, self.engine.module
        self.engine.destroy()
        if sharded:
            _forget(network)

    # -- weights ---------------------------------------------------------------------------------------------------

    def whole(self, value: Tensor, like: nn.Parameter | None = None) -> Tensor:
        """A trained parameter's float32 master, on every process; any other tensor as it is."""
        parameter = value if like is None else like
        return joined(self.shard(parameter)) if id(parameter) in self._trained else value

    def part_of(self, full: Tensor, like: Tensor) -> Tensor:
        mine = computed_with(like)
        start = min(mine.numel() * processes.rank(), full.numel()) if hasattr(like, "ds_tensor") else 0
        return full.reshape(-1)[start : start + mine.numel()].to(mine.device, mine.dtype)

    def shard_of(self, value: Tensor, like: nn.Parameter) -> Shard | Tensor:
        return self.shard(like)

    def shape_of(self, parameter: Tensor) -> tuple[int, ...]:
        return tuple(parameter.ds_shape if hasattr(parameter, "ds_shape") else parameter.shape)

    def values_here(self, parameter: Any) -> Tensor:
        return computed_with(parameter)

    @torch.no_grad()
    def take_weights(self, parameters: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]) -> None:
        """Put whole tensors into the masters, and have every process compute with them."""
        for name, value in state.items():
            self.put(parameters[name], value)
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

    @torch.no_grad()
    def put_values(self, parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
        """Masters that are no copies change with them; putting clones of `values_here` back restores them to the last bit."""
        if self.shards_weights:
            self.optimiser.empty_partition_cache()  # nobody goes on with what was gathered before
            self.optimiser.invalidate_secondary_tensor()
        for name, value in values.items():
            mine = computed_with(parameters[name])
            if value.shape != mine.shape:
                value = self.part_of(value, parameters[name])
                mine = mine[: len(value)]
            mine.copy_(value)

    def train_in_float32(self) -> None:
        """DeepSpeed has masters for that."""

    # -- gradients -------------------------------------------------------------------------------------------------

    def before_backward(self, *, last: bool) -> None:
        """Say whether this is the step's last micro-batch, after which gradients are complete.

        DeepSpeed takes each forward pass of its engine for a micro-batch, and a whole step is one pass here. Unless it is told
        that another backward pass begins, ZeRO-3 puts its gradients in the place of those before, in place of adding them.
        """
        self.engine.set_gradient_accumulation_boundary(last)
        if hasattr(self.optimiser, "clear_backward_seen_flag"):  # newer versions only
            self.optimiser.clear_backward_seen_flag()

    def clip(self, parameters: Sequence[nn.Parameter], limit: float | None, scale: float = 1.0) -> float | None:
        """DeepSpeed does it while it steps, and knows the limit."""
        return None

    def leave_out(self, parameters: Sequence[nn.Parameter], *, scaled: bool = False) -> None:
        """Have the next optimiser step drop its gradients and change nothing. Called by all processes at once.

        DeepSpeed does that of its own accord where gradients are not finite; here it is told so while it asks whether they are.
        """
        optimiser = self.optimiser
        update: Callable[[bool], None] = (
            optimiser._update_scale
        )  # asked by both stages, between measuring gradients and using them

        def update_scale(has_overflow: bool) -> None:
            del optimiser._update_scale
            optimiser.overflow = True
            update(has_overflow)

        optimiser._update_scale = update_scale

    def after_step(self, norm: float | None, fault: str | None) -> tuple[float, str | None]:
        """In float16 gradients may overflow because DeepSpeed has yet to find a scale that fits: that is no fault."""
        measured = self.engine.get_global_grad_norm()
        if fault is None and self.optimiser.overflow and not self.engine.fp16_enabled():
            fault = "gradient"
        return float("nan") if measured is None else float(measured), fault

    # -- masters and moments ---------------------------------------------------------------------------------------

    def shard(self, parameter: Tensor, moment: str | None = None) -> Shard:
        """This process's part of a trained parameter's master, or of its `moment` (exp_avg | exp_avg_sq). Not a copy.

        Shape of its `local`: (numbers,), none where other processes hold all of it. float32.
        """
        start, local = self._span(parameter, moment)
        return Shard(local, Offset(start, self.shape_of(parameter)))

    @torch.no_grad()
    def put(self, parameter: Tensor, full: Tensor, moment: str | None = None) -> None:
        """Give a trained parameter's master, or its moment, the values of `full`: each process takes its part.

        Shape of `full`: the whole parameter's.
        """
        start, local = self._span(parameter, moment)
        local.copy_(full.reshape(-1)[start : start + local.numel()])

    def _span(self, parameter: Any, moment: str | None) -> tuple[int, Tensor]:
        """Where this process's part begins in the whole tensor, and the part, a view of the flat row it lies in."""
        if self.shards_weights:
            group, offset, count = self.optimiser.grad_position[self.optimiser.get_param_id(parameter)]
            master = self.masters[group]
            row = master.detach() if moment is None else self.optimiser.optimizer.state[master][moment]
            start = min(int(count) * processes.rank(), parameter.ds_numel)
            return start, row.narrow(0, int(offset), min(int(count), parameter.ds_numel - start))
        mapping = parameter._hp_mapping
        if mapping is None:
            return 0, parameter.new_zeros(0, dtype=torch.float32)
        part: Tensor = mapping.get_hp_fragment(moment)
        return int(mapping.lp_fragment_address.start), part.detach()

    def steps_made(self) -> Tensor | None:
        """How often the optimiser has stepped, as its state says; None before the first step. Shape: ()."""
        states = [self.optimiser.optimizer.state.get(master) for master in self.masters]
        counts = [state["step"] for state in states if state]
        return torch.as_tensor(counts[0], dtype=torch.float32).cpu() if counts else None

    @torch.no_grad()
    def begin_states(self, steps: Tensor, moments: tuple[str, ...]) -> None:
        """Give the optimiser the state it would have after `steps` steps, with moments of zero for `put` to fill."""
        states = self.optimiser.optimizer.state
        for master in self.masters:
            zeros = {name: torch.zeros_like(master, requires_grad=False) for name in moments}
            states[master] = {"step": steps.detach().clone().to(torch.float32), **zeros}
        if not self.shards_weights:
            self.optimiser._lazy_init_hp_params_optimizer_state()  # tells parameters where their moments lie


def computed_with(parameter: Any) -> Tensor:
    """What this process holds of the weights that a pass computes with: a part under stage 3, in the type of the pass."""
    return parameter.ds_tensor if hasattr(parameter, "ds_tensor") else parameter.data  # type: ignore[no-any-return]


def _forget(network: VLM) -> None:
    from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

    gone = {id(module) for module in network.modules()}  # layers, too, whose recomputation ended early
    FWD_MODULE_STACK[:] = [module for module in FWD_MODULE_STACK if id(module) not in gone]
    for method in vars(PartitionedParameterCoordinator).values():
        while callable(method):
            if hasattr(method, "cache_clear"):
                method.cache_clear()
            method = inspect.getclosurevars(method).nonlocals.get("func") if inspect.isfunction(method) else None


@contextmanager
def _weights_there(network: VLM) -> Iterator[None]:
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
