"""Reading a PEFT adapter from disk so that nothing fails quietly, and its name.

peft itself only warns when keys are missing or unexpected, and an old adapter whose names no longer match then does
nothing at all. Here every key and every shape has to agree.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from parallax.models.sharding.base import Sharding
from parallax.models.sharding.whole import Whole
from parallax.models.weights_digest import tensors_digest
from parallax.records import fingerprint

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # that peft puts before every key


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds a PEFT adapter (rather than a whole model)."""
    return (folder / CONFIG).is_file()


def uses_dora(folder: Path) -> bool:
    """Whether the adapter in the folder, if it is one, was trained with DoRA."""
    return is_adapter(folder) and bool(json.loads((folder / CONFIG).read_text("utf-8")).get("use_dora"))


def load_adapter(model: nn.Module, folder: Path, *, autocast: bool = True, read: bool = True) -> Any:
    """Wrap `model` with the adapter in `folder`, trainable. Raises ValueError when keys or shapes do not agree.

    `read=False` leaves the weights as they are drawn, for whoever reads them in parts.
    """
    from peft import PeftConfig, get_peft_model

    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = False
    names = current_names(model, _shapes(folder))
    if any(old != new for old, new in names.items()):
        if not read:
            raise ValueError(
                f"the adapter in {folder} has the names of an older transformers and is to be read in parts; run "
                "task=convert_adapter on it first"
            )
        config.target_modules = expression_of(adapted_modules(names.values()))
    wrapped: Any = get_peft_model(model, config, autocast_adapter_dtype=autocast)
    if read:
        read_adapter(wrapped, folder, Whole(wrapped))
    else:
        _check_fit(wrapped, folder)
    return wrapped


def adapter_digest(wrapped: Any, sharding: Sharding) -> str:
    """Names an adapter by its settings and weights, where it is sharded too (then called by all processes at once)."""
    from peft.utils import get_peft_model_state_dict

    config = wrapped.peft_config["default"]
    settings = {"r": config.r, "alpha": config.lora_alpha, "rslora": config.use_rslora, "dora": config.use_dora}
    patterns = {"ranks": config.rank_pattern, "alphas": config.alpha_pattern}
    settings |= {name: pattern for name, pattern in patterns.items() if pattern}
    with sharding.readable():
        weights = tensors_digest(get_peft_model_state_dict(wrapped), sharding.whole)
    return fingerprint({"settings": settings, "weights": weights})


def keys_of(wrapped: Any) -> dict[str, str]:
    """Name of each adapted or wholly trained weight in `wrapped` → its key in an adapter's file."""
    return {
        name: re.sub(r"\.(modules_to_save\.)?default(?=\.|$)", "", name)
        for name, value in wrapped.named_parameters()
        if value.requires_grad
    }


def read_adapter(wrapped: Any, folder: Path, sharding: Sharding) -> None:
    """Put the weights in `folder` into the adapter that `wrapped` has. Raises ValueError when keys or shapes do not agree."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    _check_fit(wrapped, folder)
    names = current_names(wrapped.get_base_model(), _shapes(folder))
    saved = {names[key]: value for key, value in load_file(str(_weights_of(folder))).items()}
    if sharding.is_sharded:
        parameters = {name: value for name, value in wrapped.named_parameters() if value.requires_grad}
        sharding.take_weights(parameters, {name: saved[key] for name, key in keys_of(wrapped).items()})
    else:
        set_peft_model_state_dict(wrapped, saved)


def current_names(model: Any, keys: Iterable[str]) -> dict[str, str]:
    """The name that each key of an adapter's file has in this transformers: key -> key.

    Adapters of transformers before 4.52 put the decoder and the projector of a vision-language model in other places;
    transformers renames whole checkpoints by the same rules. Keys that need no new name keep theirs.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    modules = {name for name, _ in model.named_modules()}
    rules = [rule for rule in get_model_conversion_mapping(model) if isinstance(rule, WeightRenaming)]
    names = {}
    for key in keys:
        inside = key.removeprefix(PREFIX)
        place = re.sub(r"\.lora_\w+(\..*)?$|\.(weight|bias)$", "", inside)
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


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights in an adapter's file."""
    from safetensors import safe_open

    with safe_open(_weights_of(folder), "pt") as opened:
        return {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118  (not a dict)


def _check_fit(wrapped: Any, folder: Path) -> None:
    from peft.utils import get_peft_model_state_dict

    expected = {key: tuple(value.shape) for key, value in get_peft_model_state_dict(wrapped).items()}
    shapes = _shapes(folder)
    names = current_names(wrapped.get_base_model(), shapes)
    saved = {names[key]: shape for key, shape in shapes.items()}
    missing, unexpected = sorted(expected.keys() - saved.keys()), sorted(saved.keys() - expected.keys())
    reshaped = [key for key in saved.keys() & expected.keys() if saved[key] != expected[key]]
    complaints = [
        f"{len(keys)} {what} (such as {keys[0]!r})"
        for what, keys in (
            ("missing keys", missing),
            ("unexpected keys", unexpected),
            ("keys of another shape", sorted(reshaped)),
        )
        if keys
    ]
    if complaints:
        raise ValueError(
            f"the adapter in {folder} does not fit {type(wrapped.get_base_model()).__name__}: {', '.join(complaints)}. It was "
            "made for another model or by another version; use the model it was trained on"
        )


def _weights_of(folder: Path) -> Path:
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"the adapter folder {folder} has no {WEIGHTS}; only safetensors adapters are read")
    return folder / WEIGHTS
