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

from torch import Tensor, nn

from parallax.models.adapter import CONFIG
from parallax.models.adapter_config import check_config
from parallax.models.foreign import VLM
from parallax.models.older_adapter import PREFIX, WEIGHTS, expression_of, read_tensors, with_current_names

OTHERS = ("non_lora_trainables.bin", "non_lora_trainables.safetensors")
LORA = re.compile(r"(?P<module>.+)\.(?:lora_(?P<side>[AB])(?:\.default)?\.weight|lora_magnitude_vector(?:\..+)?)")
RENAMED = (  # modules of the original model -> of Hugging Face's; the first that fits counts
    (re.compile(r"model\.layers\.(.+)"), r"model.language_model.layers.\1"),
    (re.compile(r"model\.mm_projector\.0(\..+)?"), r"model.multi_modal_projector.linear_1\1"),
    (re.compile(r"model\.mm_projector\.2(\..+)?"), r"model.multi_modal_projector.linear_2\1"),
    (re.compile(r"model\.vision_tower\.vision_tower\.vision_model\.(.+)"), r"model.vision_tower.\1"),
)
PROJECTOR, VISION = "model.multi_modal_projector", "model.vision_tower."
A, B, MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"  # what peft keeps of one module


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
    old = {**read_tensors(folder, WEIGHTS, needed=True), **read_tensors(folder, OTHERS, needed=False)}
    counts: Counter[str] = Counter()
    state: dict[str, Tensor] = {}
    lora: dict[str, dict[str, Tensor]] = {}
    before = {}  # name of an adapted module -> the original's
    odd = []
    for key, value in old.items():
        name = _without_prefixes(key)
        match = LORA.fullmatch(name)
        renamed = _renamed(match["module"] if match else name)
        if renamed is None or (match is None and not renamed.startswith(f"{PROJECTOR}.")):
            odd.append(key)
        elif match is not None:
            before[renamed] = match["module"]
            lora.setdefault(renamed, {})[f"lora_{match['side']}.weight" if match["side"] else MAGNITUDE] = value
        else:
            state[PREFIX + renamed] = value
            counts["projector weights"] += 1
    if odd:
        raise ValueError(
            f"{len(odd)} keys of {folder} have no place in an adapter for {type(network).__name__}, such as {odd[0]!r}; known "
            "are LoRA weights of the language model and the vision tower, and the weights of a two-layer projector"
        )
    targets = []
    needed = {A, B, MAGNITUDE} if settings.get("use_dora") else {A, B}
    for module, parts in lora.items():
        if set(parts) != needed:
            raise ValueError(
                f"{module} has {', '.join(sorted(parts))} in {folder}, where {', '.join(sorted(needed))} are expected; the "
                f"file is incomplete, or {CONFIG} is of another adapter"
            )
        if module.startswith(VISION) and not parts[B].any() and MAGNITUDE not in parts:
            counts["LoRA weights of the vision tower that do nothing, left out"] += len(parts)
            continue
        targets.append(module)
        counts[f"LoRA weights of the {'vision tower' if module.startswith(VISION) else 'language model'}"] += len(parts)
        state |= {f"{PREFIX}{module}.{part}": value for part, value in parts.items()}
    config = _config(settings, {module: before[module] for module in targets}, state, base, folder)
    _compare(state, {module: config.rank_pattern.get(module, config.r) for module in targets}, network, folder)
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    return Converted(
        {key: value.contiguous() for key, value in state.items()},
        {key: getattr(value, "value", value) for key, value in plain.items()},
        counts,
    )


def _settings(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} has no {CONFIG}; give the folder of a LoRA adapter")
    settings: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if settings.get("peft_type") != "LORA":
        raise ValueError(f"{folder} holds a {settings.get('peft_type')} adapter; only LoRA adapters can be converted")
    for name in ("modules_to_save", "layers_to_transform", "layer_replication"):
        if settings.get(name):
            raise ValueError(
                f"the adapter in {folder} has {name}={settings[name]!r}, which adapters of LLaVA's code do not have"
            )
    if settings.get("bias", "none") != "none":
        raise ValueError(f"the adapter in {folder} has bias={settings['bias']!r}; only bias='none' can be converted")
    return settings


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


def _compare(state: Mapping[str, Tensor], targets: Mapping[str, int], network: VLM, folder: Path) -> None:
    """Every module (with its rank in `targets`) must be in the network, and every shape must fit."""
    modules, weights = dict(network.named_modules()), dict(network.named_parameters())
    for module, rank in targets.items():
        found = modules.get(module)
        if not isinstance(found, nn.Linear):
            raise ValueError(
                f"{type(network).__name__} has no linear layer {module}, which {folder} adapts; it is of another model"
            )
        expected = {A: (rank, found.in_features), B: (found.out_features, rank), MAGNITUDE: (found.out_features,)}
        for part, shape in expected.items():
            if (value := state.get(f"{PREFIX}{module}.{part}")) is not None:
                _fits(f"{module}.{part}", value, shape, folder)
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


def _config(
    settings: Mapping[str, Any], before: Mapping[str, str], state: Mapping[str, Tensor], base: str, folder: Path
) -> Any:
    """peft's configuration of the adapter under its new names; `before`: new name of an adapted module -> the original's.

    Ranks and scales of single modules are asked for by names of the original, and written down by full new ones.
    """
    from peft import LoraConfig
    from peft.utils.other import get_pattern_key

    config = LoraConfig(
        r=settings["r"],
        lora_alpha=settings["lora_alpha"],
        lora_dropout=float(settings.get("lora_dropout") or 0.0),
        target_modules=expression_of(list(before)),
        modules_to_save=["multi_modal_projector"] if any(key.startswith(PREFIX + PROJECTOR) for key in state) else None,
        use_rslora=bool(settings.get("use_rslora")),
        use_dora=bool(settings.get("use_dora")),
        rank_pattern=settings.get("rank_pattern") or {},
        alpha_pattern=settings.get("alpha_pattern") or {},
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    )
    try:
        check_config(config, [len(value) for key, value in state.items() if key.endswith(A)], before.values())
    except ValueError as error:
        raise ValueError(f"the adapter in {folder} cannot be converted: {error}") from error
    for name in ("rank_pattern", "alpha_pattern"):
        asked = getattr(config, name)
        keys = {new: get_pattern_key(asked, old) for new, old in before.items()}
        setattr(config, name, {new: asked[key] for new, key in keys.items() if key in asked})
    return config
