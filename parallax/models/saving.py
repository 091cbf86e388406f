"""Writing what was learned: the PEFT adapter alone, or the whole model with the adapter merged in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parallax.models import processes
from parallax.models.backbone import base_model
from parallax.models.foreign import VLM, Processor
from parallax.models.sharding.base import Sharding, plain_name
from parallax.records.atomic import replaced_folder

SHARD = "5GB"  # largest file of a merged model


def save_adapter(model: VLM, sharding: Sharding, folder: Path) -> None:
    """The adapter in PEFT's own format (safetensors); the folder is whole or as it was. Called by every process, written by
    the first, which alone holds all of it for that long."""
    state: dict[str, Tensor] | None = None
    if sharding.is_sharded:
        state = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                full = sharding.whole(parameter)
                if processes.is_first():
                    state[plain_name(name)] = full.detach().cpu()
    if processes.is_first():
        with replaced_folder(folder) as unfinished, sharding.without_wrappers():
            model.save_pretrained(str(unfinished), state_dict=state)
    processes.barrier()


def save_merged(model: VLM, sharding: Sharding, processor: Processor, folder: Path, *, corrupt: bool = False) -> None:
    """A plain checkpoint of the adapted model with its processor. The live model is not changed, to the last bit.

    The adapted weights are worked out layer by layer and collected on the CPU, so no second model is needed on the device.
    Called by every process, written by the first. `corrupt` lets the live model be changed: then there is no second copy of
    its weights at any time, and it is of no use afterwards.
    """
    network = base_model(model)
    with sharding.readable():  # what is on the CPU already is not copied, and there only as long as it is gathered
        state = merged_state(network, sharding, corrupt=corrupt)
        if processes.is_first():
            _write(network, state, processor, folder)
    processes.barrier()


def _write(network: VLM, state: dict[str, Tensor], processor: Processor, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        shell = type(network)(network.config)
    shell.to(network.get_input_embeddings().weight.dtype)
    shell.load_state_dict(state, assign=True, strict=False)
    shell.tie_weights()
    left = [name for name, value in shell.state_dict().items() if value.is_meta]
    if left:
        raise RuntimeError(f"merging left {len(left)} weights without a value, such as {left[0]!r}")
    shell.generation_config = network.generation_config
    shell._weight_conversions = names_outside(network)
    with replaced_folder(folder) as unfinished:
        shell.save_pretrained(str(unfinished), max_shard_size=SHARD)
        processor.save_pretrained(str(unfinished))


def names_outside(network: VLM) -> list[Any]:
    """How weights are renamed on their way to a file: back to the names that the family's checkpoints have.

    transformers undoes what it did when it loaded. It leaves a CLIP tower without the level `vision_model` where it found none
    (a model made from its configuration, or read from LLaVA's original files), but vLLM and older transformers know it with
    that level only, and newer transformers with and without.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import PrefixChange

    every = get_model_conversion_mapping(network, add_legacy=False)  # type: ignore[arg-type]
    prefixes = [entry for entry in every if isinstance(entry, PrefixChange)]
    used = getattr(network, "_weight_conversions", None)
    if used is None:
        used = [entry for entry in every if entry not in prefixes]
    if any(isinstance(entry, PrefixChange) and entry.prefix_to_remove == "vision_model" for entry in used):
        return list(used)
    return [*used, *(entry for entry in prefixes if entry.prefix_to_remove == "vision_model")]


def base_state(network: VLM) -> dict[str, Tensor]:
    """The base model's weights under their plain names, without anything an adapter put in."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    layers = [n for n, m in network.named_modules() if isinstance(m, BaseTunerLayer)]
    wrapped = [n for n, m in network.named_modules() if isinstance(m, ModulesToSaveWrapper)]
    state = {}
    for name, value in network.state_dict().items():
        owner = next((n for n in (*layers, *wrapped) if name.startswith(n + ".")), None)
        if owner is None:
            state[name] = value
            continue
        rest = name[len(owner) + 1 :]
        inside = rest.replace("base_layer.", "").removeprefix("original_module.")
        if inside != rest and not inside.startswith("lora_"):  # of two adapters around each other the inner one
            state[f"{owner}.{inside}"] = value
    return state


@torch.no_grad()
def merged_state(network: VLM, sharding: Sharding, *, corrupt: bool = False) -> dict[str, Tensor]:
    """Plain names, adapted weights, on the CPU. `corrupt`: the model may be changed, so that nothing has to be copied."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    state = {}
    for name, value in base_state(network).items():
        full = sharding.whole(value.detach())
        if processes.is_first():
            state[name] = full.cpu()
    for name, module in network.named_modules():
        if isinstance(module, BaseTunerLayer):
            layer: Any = module
            plain = name.replace(".base_layer", "")  # of a layer with two adapted weights one wraps the other
            weights = dict(layer.get_base_layer().named_parameters(recurse=False))
            kept = {} if corrupt else {key: weight.detach().clone() for key, weight in weights.items()}
            layer.merge()
            for key, weight in weights.items():
                if corrupt:
                    state[f"{plain}.{key}"] = weight.detach().cpu()
                elif not torch.equal(weight, kept[key]):
                    state[f"{plain}.{key}"] = weight.detach().cpu().clone()
                    weight.data.copy_(kept[key])
            if not corrupt:
                layer.merged_adapters.clear()
        elif isinstance(module, ModulesToSaveWrapper):
            wrapper: Any = module
            active = wrapper.modules_to_save[wrapper.active_adapter]
            state.update({f"{name}.{key}": value.detach().cpu() for key, value in active.state_dict().items()})
    return state
