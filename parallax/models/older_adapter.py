"""Adapters of transformers before 4.52: the names of their weights in today's models.

Until then a vision-language model held its decoder at `language_model.model` (Qwen-VL: at `model`) and its projector beside it;
now all lies below `model`. transformers renames whole checkpoints by rules of its own, which are applied to adapters here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parallax.models.foreign import VLM

PREFIX = "base_model.model."  # that peft puts before every key
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def current_names(model: VLM, keys: Iterable[str]) -> dict[str, str]:
    """The name that each key of an adapter's file has in this transformers: key -> key.

    Adapters of transformers before 4.52 put the decoder and the projector of a vision-language model in other places;
    transformers renames whole checkpoints by the same rules. Keys that need no new name keep theirs.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    modules = _modules_of(model)
    rules = [rule for rule in get_model_conversion_mapping(model) if isinstance(rule, WeightRenaming)]  # type: ignore[arg-type]
    names = {}
    for key in keys:
        inside = key.removeprefix(PREFIX)
        place = _place(inside)
        if place in modules or not key.startswith(PREFIX):
            names[key] = key
            continue
        renamed, _ = rename_source_key(f"{place}.weight", rules, [])
        new = renamed.removesuffix(".weight")
        names[key] = PREFIX + new + inside.removeprefix(place) if new in modules else key
    return names


def adapted_modules(keys: Iterable[str]) -> list[str]:
    """Full names of the modules that carry LoRA, by the keys of an adapter's file."""
    found = (re.fullmatch(re.escape(PREFIX) + r"(.+)\.lora_(?:A|embedding_A)(?:\..*)?", key) for key in keys)
    return sorted({match[1] for match in found if match})


def expression_of(modules: list[str]) -> str:
    """A regular expression that matches these full names and no other of the same numbered layers."""
    layers: dict[str, set[int]] = {}
    for name in modules:
        kind, number = re.sub(r"\.(\d+)\.", ".#.", name, count=1), re.search(r"\.(\d+)\.", name)
        layers.setdefault(kind, set()).add(int(number[1]) if number else -1)
    parts = []
    for kind, numbers in sorted(layers.items()):
        whole = numbers == set(range(len(numbers)))
        digits = r"\d+" if whole else f"(?:{'|'.join(map(str, sorted(numbers)))})"
        parts.append(re.escape(kind).replace(r"\#", digits))
    return "|".join(parts)


def current_patterns(model: VLM, patterns: Mapping[str, Any]) -> dict[str, Any]:
    """peft's `rank_pattern` or `alpha_pattern` with full names of modules as they are now; expressions stay as they are."""
    return {
        current_names(model, [f"{PREFIX}{name}.weight"])[f"{PREFIX}{name}.weight"][len(PREFIX) : -len(".weight")]: value
        for name, value in patterns.items()
    }


def with_current_names(folder: Path, model: VLM) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The weights and the configuration of a peft adapter under today's names; None where some weight has no place in `model`.

    `model` may be on the meta device: its names are all that counts.
    """
    saved, settings = read_tensors(folder, WEIGHTS, needed=False), folder / "adapter_config.json"
    if not saved or not settings.is_file():
        return None
    config = json.loads(settings.read_text(encoding="utf-8"))
    names = current_names(model, saved)
    modules = _modules_of(model)
    if not all(key.startswith(PREFIX) and _place(key.removeprefix(PREFIX)) in modules for key in names.values()):
        return None
    config["target_modules"] = expression_of(adapted_modules(names.values()))
    for name in ("rank_pattern", "alpha_pattern"):
        config[name] = current_patterns(model, config.get(name) or {})
    return {names[key]: value.contiguous() for key, value in saved.items()}, config


def read_tensors(folder: Path, names: tuple[str, ...], *, needed: bool) -> dict[str, Tensor]:
    """Tensors of the first file that is there; {} if none is and none is needed.

    Pickles are read as plain tensors only: no code in them is run.
    """
    from safetensors.torch import load_file

    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        if needed:
            raise ValueError(f"{folder} has none of {', '.join(names)}; fetch the adapter's weights")
        return {}
    if file.suffix == ".safetensors":
        return load_file(str(file))
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle that holds more than tensors, or is cut off
        raise ValueError(f"{file} cannot be read as plain tensors ({str(error).splitlines()[0][:160]})") from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{file} holds a {type(found).__name__}; a mapping from names to tensors is expected")
    return dict(found)


def _modules_of(model: VLM) -> set[str]:
    """Full names of the modules, as if nothing had been wrapped by peft."""
    return {
        re.sub(r"\.(original_module|modules_to_save\.\w+|base_layer)", "", name) for name, _ in model.named_modules()
    }


def _place(key: str) -> str:
    """The module that a key without peft's prefix belongs to."""
    return re.sub(r"\.lora_\w+(\..*)?$|\.(weight|bias)$", "", key)
