"""Adapters of the original LLaVA code (`liuhaotian/llava-…-lora`, STIC, SIMA, CSR) in the layout of Hugging Face's LLaVA.

    adapter_config.json   adapter_model.bin | .safetensors   non_lora_trainables.bin (the projector, where it was trained)

The same weights have other names there: the decoder's layers lie at `model.layers` and not at `model.language_model.layers`, the
projector is `mm_projector.0` and `.2`. Every key is renamed, or left out for a reason that is told; anything else is an error.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from parallax.models.adapter import CONFIG, WEIGHTS
from parallax.models.foreign import VLM
from parallax.models.older_adapter import PREFIX, expression_of, with_current_names

PLAIN = "adapter_model.bin"
OTHERS = ("non_lora_trainables.bin", "non_lora_trainables.safetensors")
LORA = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
RENAMED = (  # modules of the original model -> of Hugging Face's; the first that fits counts
    (re.compile(r"model\.layers\.(.+)"), r"model.language_model.layers.\1"),
    (re.compile(r"model\.mm_projector\.0(\..+)?"), r"model.multi_modal_projector.linear_1\1"),
    (re.compile(r"model\.mm_projector\.2(\..+)?"), r"model.multi_modal_projector.linear_2\1"),
    (re.compile(r"model\.vision_tower\.vision_tower\.vision_model\.(.+)"), r"model.vision_tower.\1"),
)
PROJECTOR, VISION = "model.multi_modal_projector", "model.vision_tower."


@dataclass
class Converted:
    """A converted adapter: weights by their new keys, peft's configuration, and what became of the old keys."""

    state: dict[str, Tensor]
    config: dict[str, Any]
    counts: Counter[str] = field(default_factory=Counter)  # what -> number of old keys

    def line(self) -> str:
        return ", ".join(f"{count:,} {what}" for what, count in self.counts.items())


def convert(folder: Path, network: VLM, base: str) -> Converted:
    """Read the adapter in `folder` and give it the names of `network`.

    Args:
        network: Hugging Face's model of the same size; its names and shapes count, so it may be on the meta device.
        base: path or hub name of the model, written into the configuration.

    Raises ValueError, in sentences, for keys that are not known, shapes that do not fit, and settings that cannot be kept.
    """
    older = with_current_names(folder, network)
    if older is not None:
        weights, config = older
        return Converted(
            weights, {**config, "base_model_name_or_path": base}, Counter({"weights renamed": len(weights)})
        )
    settings = _settings(folder)
    old = {**_read(folder, (WEIGHTS, PLAIN), needed=True), **_read(folder, OTHERS, needed=False)}
    counts: Counter[str] = Counter()
    state: dict[str, Tensor] = {}
    lora: dict[str, dict[str, Tensor]] = {}
    odd = []
    for key, value in old.items():
        name = _without_prefixes(key)
        match = LORA.fullmatch(name)
        renamed = _renamed(match["module"] if match else name)
        if renamed is None or (match is None and not renamed.startswith(f"{PROJECTOR}.")):
            odd.append(key)
        elif match is not None:
            lora.setdefault(renamed, {})[match["side"]] = value
        else:
            state[PREFIX + renamed] = value
            counts["projector weights"] += 1
    if odd:
        raise ValueError(
            f"{len(odd)} keys of {folder} have no place in an adapter for {type(network).__name__}, such as {odd[0]!r}; known "
            "are LoRA weights of the language model and the vision tower, and the weights of a two-layer projector"
        )
    targets = []
    for module, sides in lora.items():
        if set(sides) != {"A", "B"}:
            raise ValueError(f"{module} has only one half of its LoRA weights in {folder}; the file is incomplete")
        if module.startswith(VISION) and not sides["B"].any():
            counts["LoRA weights of the vision tower that do nothing, left out"] += 2
            continue
        targets.append(module)
        counts[f"LoRA weights of the {'vision tower' if module.startswith(VISION) else 'language model'}"] += 2
        state |= {f"{PREFIX}{module}.lora_{side}.weight": value for side, value in sides.items()}
    _compare(state, targets, network, int(settings["r"]), folder)
    projector = any(key.startswith(PREFIX + PROJECTOR) for key in state)
    return Converted(
        {key: value.contiguous() for key, value in state.items()}, _config(settings, targets, projector, base), counts
    )


def _settings(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} has no {CONFIG}; give the folder of a LoRA adapter")
    settings: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if settings.get("peft_type") != "LORA":
        raise ValueError(f"{folder} holds a {settings.get('peft_type')} adapter; only LoRA adapters can be converted")
    for name in ("rank_pattern", "alpha_pattern", "modules_to_save", "layers_to_transform", "layer_replication"):
        if settings.get(name):
            raise ValueError(
                f"the adapter in {folder} has {name}={settings[name]!r}, which adapters of LLaVA's code do not have"
            )
    if settings.get("bias", "none") != "none":
        raise ValueError(f"the adapter in {folder} has bias={settings['bias']!r}; only bias='none' can be converted")
    return settings


def _read(folder: Path, names: tuple[str, ...], *, needed: bool) -> dict[str, Tensor]:
    """Tensors of the first file that is there. Pickles are read as plain tensors only: no code in them is run."""
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


def _without_prefixes(key: str) -> str:
    """A module of the original model: `model.layers.0.…`. Adapters that were put on twice have peft's prefix twice."""
    while key.startswith(PREFIX):
        key = key.removeprefix(PREFIX)
    return key.removeprefix("base_model.")


def _renamed(name: str) -> str | None:
    for pattern, new in RENAMED:
        if match := pattern.fullmatch(name):
            return match.expand(new) if match.lastindex else pattern.sub(new.replace(r"\1", ""), name)
    return None


def _compare(state: Mapping[str, Tensor], targets: list[str], network: VLM, rank: int, folder: Path) -> None:
    """Every module must be in the network, and every shape must fit."""
    modules, weights = dict(network.named_modules()), dict(network.named_parameters())
    for module in targets:
        found = modules.get(module)
        if not isinstance(found, nn.Linear):
            raise ValueError(
                f"{type(network).__name__} has no linear layer {module}, which {folder} adapts; it is of another model"
            )
        expected = {"A": (rank, found.in_features), "B": (found.out_features, rank)}
        for side, shape in expected.items():
            _fits(f"{module}.lora_{side}", state[f"{PREFIX}{module}.lora_{side}.weight"], shape, folder)
    projector = [name for name in weights if name.startswith(f"{PROJECTOR}.")]
    given = [key.removeprefix(PREFIX) for key in state if key.startswith(PREFIX + PROJECTOR)]
    if given and sorted(given) != sorted(projector):
        odd = sorted(set(given) ^ set(projector))
        raise ValueError(
            f"the projector in {folder} is not that of {type(network).__name__}: {odd[0]} is on one side only"
        )
    for name in given:
        _fits(name, state[PREFIX + name], tuple(weights[name].shape), folder)


def _fits(name: str, value: Tensor, shape: tuple[int, ...], folder: Path) -> None:
    if tuple(value.shape) != shape:
        raise ValueError(
            f"{name} is {tuple(value.shape)} in {folder}, and {shape} is expected; it was made for a model of another size"
        )


def _config(settings: Mapping[str, Any], targets: list[str], projector: bool, base: str) -> dict[str, Any]:
    from peft import LoraConfig

    config = LoraConfig(
        r=int(settings["r"]),
        lora_alpha=settings["lora_alpha"],
        lora_dropout=float(settings.get("lora_dropout") or 0.0),
        target_modules=expression_of(targets),
        modules_to_save=["multi_modal_projector"] if projector else None,
        use_rslora=bool(settings.get("use_rslora")),
        use_dora=bool(settings.get("use_dora")),
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    )
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    return {key: getattr(value, "value", value) for key, value in plain.items()}
