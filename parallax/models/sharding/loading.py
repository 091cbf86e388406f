"""Loading for sharded weights: each process reads its own rows of the language model from the files, and never holds more of it.

    network = empty_network(…)              shapes only (meta device); buffers are real, they are computed and not read
    parts = Parts(network, files, mesh)     where each weight lies
    with parts.rows.keeping(): add_lora(…)  as peft draws an adapter's first weights, this process keeps its rows of them
    parts.fill(…)                           layer by layer: divide the empty layer, then read this process's rows into it

The vision tower and a frozen projector are read whole by every process (see `sharding`). What the files of a checkpoint do not
hold as it is needed (experts to be fused, weights kept in another precision) is left to transformers' own loading, which holds
the model whole for a moment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from parallax.models.adapter import WEIGHTS, keys_of
from parallax.models.backbone import base_model
from parallax.models.foreign import VLM
from parallax.models.sharding.fsdp2 import FSDP2, rows_of

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

INSIDE = "base_model.model."  # what peft puts before the names of the plain model
WRAPPERS = re.compile(r"\.(?:base_layer|original_module|modules_to_save\.default)(?=\.)")


class NotInParts(ValueError):
    """Why a checkpoint cannot be read in parts; a half-sentence."""


@dataclass(frozen=True, slots=True)
class InFile:
    """Where a tensor lies."""

    file: Path
    key: str


def empty_network(auto_class: type[Any], path: str, dtype: torch.dtype, *, attention: str, revision: str) -> Any:
    """The model of a checkpoint without its weights. Raises `NotInParts` for one that is quantised on disk."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, GenerationConfig

    config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    if getattr(config, "quantization_config", None) is not None:
        raise NotInParts("it is quantised on disk")
    with init_empty_weights(include_buffers=False):
        network = auto_class.from_config(config, dtype=dtype, attn_implementation=attention)
    network.tie_weights()  # the same empty weight again where two names share one
    network.config.name_or_path = path
    if network.can_generate():
        with suppress(OSError):  # a checkpoint that has none: the model's own defaults stand
            network.generation_config = GenerationConfig.from_pretrained(path, revision=revision)
    if network._get_dtype_plan(dtype):
        raise NotInParts("some of its weights stay in another precision")
    return network.eval()


def places_in_files(network: VLM, files: Sequence[Path]) -> dict[str, InFile]:
    """Name in the network → where its tensor lies. Names that share a weight have one place.

    Raises `NotInParts` where a weight is made of several tensors, lacks one, or has another shape.
    """
    from safetensors import safe_open
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    wanted = network.state_dict()
    mapping = get_model_conversion_mapping(network)  # type: ignore[arg-type]
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    prefix, found = network.base_model_prefix, dict[str, InFile]()
    for file in files:
        with safe_open(file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118  (not a dict)
                name, pattern = rename_source_key(key, renamings, converters, prefix, wanted)
                if name not in wanted and key in wanted:
                    name, pattern = key, None
                if name not in wanted:
                    continue
                if pattern is not None:
                    raise NotInParts(f"{name} is put together from several tensors")
                if (shape := tuple(opened.get_slice(key).get_shape())) != tuple(wanted[name].shape):
                    raise NotInParts(f"{name} has another shape, {shape}")
                found[name] = InFile(file, key)
    network._weight_conversions = [entry for entry in mapping if entry.was_used()]  # for saving under the same names
    return _shared(network, wanted, found)


def _shared(network: VLM, wanted: Mapping[str, Tensor], found: dict[str, InFile]) -> dict[str, InFile]:
    names_of: dict[int, list[str]] = {}
    for name, value in network.named_parameters(remove_duplicate=False):
        names_of.setdefault(id(value), []).append(name)
    for names in names_of.values():
        there = [name for name in names if name in found]
        if len(there) > 1:
            raise NotInParts(f"{there[0]} and {there[1]} are one weight, and it has both")
        found |= {name: found[there[0]] for name in names if there}
    if missing := sorted(wanted.keys() - found.keys()):
        raise NotInParts(f"it has no {missing[0]}")
    return found


@dataclass
class AdapterRows:
    """This process's rows of a fresh adapter's first weights.

    peft draws them in full, one layer after the other, and moves them to where the base is: to nowhere, here. The draws are
    those of a model loaded whole, so all processes start with parts of the same adapter, and with that of a single process.
    """

    number: int  # of this process
    count: int  # of processes
    kept: dict[nn.Module, dict[str, Tensor]] = field(default_factory=dict)

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Inside: an adapter put into an empty network leaves its rows here."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        move = BaseTunerLayer._move_adapter_to_device_of_base_layer

        def keep_and_move(layer: LoraLayer, adapter_name: str, device: torch.device | None = None) -> None:
            dtype = next(layer.get_base_layer().parameters()).dtype
            for name in (*layer.adapter_layer_names, *layer.other_param_names):
                holder = getattr(layer, name, None)
                if isinstance(holder, nn.ModuleDict | nn.ParameterDict):
                    self._keep(holder, dtype)
            move(layer, adapter_name, device)

        BaseTunerLayer._move_adapter_to_device_of_base_layer = keep_and_move  # type: ignore[assignment,method-assign]
        try:
            yield
        finally:
            BaseTunerLayer._move_adapter_to_device_of_base_layer = move  # type: ignore[method-assign]

    def _keep(self, holder: nn.Module, dtype: torch.dtype) -> None:
        for key, value in holder.named_parameters():
            if not value.is_meta:
                size = -(-len(value) // self.count)
                mine = value.detach()[self.number * size : (self.number + 1) * size].to(dtype)
                self.kept.setdefault(holder, {})[key] = mine.clone()

    def by_name(self, network: VLM) -> dict[str, Tensor]:
        """Name in the network → rows."""
        return {
            f"{name}.{key}": rows
            for name, module in network.named_modules()
            for key, rows in self.kept.get(module, {}).items()
        }


class Parts:
    """A network without its weights, and where they are.

    Args:
        network: see `empty_network`.
        files: safetensors files of the checkpoint.
        mesh: one-dimensional, of the processes that share the weights.

    Raises `NotInParts`, see `places_in_files`.
    """

    def __init__(self, network: VLM, files: Sequence[Path], mesh: DeviceMesh) -> None:
        self.network, self.mesh = network, mesh
        self.places = places_in_files(network, files)
        self.rows = AdapterRows(mesh.get_local_rank(), mesh.size())

    @torch.no_grad()
    def fill(self, network: VLM, adapter: Path | None, device: str) -> FSDP2:
        """Share the network out over the processes and read this process's rows of everything, layer by layer, in place.

        Args:
            network: this one, with the layers of an adapter in it where there is one.
            adapter: folder of the adapter whose weights it gets; None for the rows that were kept.
        """
        plain = base_model(network)
        learned: dict[str, Tensor | InFile] = {**self.rows.by_name(plain)}
        self.rows.kept.clear()
        if adapter is not None:
            learned = {
                name.removeprefix(INSIDE): InFile(adapter / WEIGHTS, key) for name, key in keys_of(network).items()
            }
        names = {module: f"{name}." if name else "" for name, module in plain.named_modules()}
        done: set[str] = set()
        with ExitStack() as stack:
            files = _Files(stack)

            def read(part: nn.Module) -> None:
                for inside, value in part.named_parameters():
                    name = names[part] + inside
                    if name in done:
                        continue
                    done.add(name)
                    source = learned.pop(name) if name in learned else self.places.get(WRAPPERS.sub("", name))
                    if source is None:
                        raise RuntimeError(
                            f"no value was found for {name}; use trainer=ddp, which loads the model whole"
                        )
                    if isinstance(source, InFile):
                        files.read(source, value)
                    else:
                        _own(value).copy_(source)

            sharding = FSDP2(network, self.mesh, before=lambda part: _make_room(part, device), after=read)
            plain.to(device)  # buffers; everything else is there
            for name, value in plain.named_buffers():
                if (place := self.places.get(WRAPPERS.sub("", name))) is not None:
                    files.read(place, value)
        return sharding


class _Files:
    """Safetensors files, opened once."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack, self.opened = stack, dict[Path, Any]()

    def read(self, place: InFile, value: Tensor) -> None:
        """This process's rows of the tensor at `place` into `value`."""
        from safetensors import safe_open

        if place.file not in self.opened:
            self.opened[place.file] = self.stack.enter_context(safe_open(place.file, "pt"))
        file, mine = self.opened[place.file], _own(value)
        if value.ndim == 0:
            mine.copy_(file.get_tensor(place.key))
            return
        start, length = rows_of(value) if isinstance(value, DTensor) else (0, len(value))
        if length:
            mine.copy_(file.get_slice(place.key)[start : start + length])


def _own(value: Tensor) -> Tensor:
    """What this process holds of it."""
    return value.to_local() if isinstance(value, DTensor) else value


def _make_room(module: nn.Module, device: str) -> None:
    """Put memory that nothing has touched behind every empty weight of `module`; one that has two names stays one."""
    made: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None and value.is_meta:
                if id(value) not in made:
                    made[id(value)] = nn.Parameter(torch.empty_like(value, device=device), value.requires_grad)
                part._parameters[name] = made[id(value)]
