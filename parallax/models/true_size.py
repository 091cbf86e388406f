"""The configured models at true size without their weights: built on the meta device from `architectures/<name>.json`.

Shapes are all there is, so layers, targets and parameters can be counted in seconds and without a download. The files hold
what the checkpoints' own `config.json` say about sizes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parallax.settings.groups import Lora

FOLDER = Path(__file__).parent / "architectures"


@dataclass(frozen=True)
class LoraCount:
    """LoRA of one rank on the language model: how many layers carry it and how many parameters are trained."""

    modules: int
    trainable: int
    total: int  # parameters of the base model


def architectures() -> list[str]:
    """Names of the models that are described, those of conf/model."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def meta_model(name: str) -> Any:
    """The network of conf/model/<name>.yaml on the meta device. Raises ValueError for a name that is not described."""
    import torch
    from transformers import AutoModelForImageTextToText

    config = config_of(name)
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def config_of(name: str) -> Any:
    """The transformers configuration of conf/model/<name>.yaml. Raises ValueError for a name that is not described."""
    from transformers import AutoConfig

    if name not in architectures():
        raise ValueError(f"the architecture of {name!r} is not described; there are {', '.join(architectures())}")
    settings = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return AutoConfig.for_model(settings.pop("model_type"), **settings)


def count_lora(name: str, rank: int) -> LoraCount:
    """Put LoRA of `rank` on the language model of `name`, on the meta device, and count."""
    import torch

    from parallax.models.lora import add_lora
    from parallax.settings.shipped import shipped

    model = meta_model(name)
    total = sum(parameter.numel() for parameter in model.parameters())
    with torch.device("meta"):
        tuned = add_lora(model, shipped(Lora, r=rank), seed=0)
    modules = [module for module, _ in tuned.named_modules() if module.endswith(".lora_A")]
    trainable = sum(parameter.numel() for parameter in tuned.parameters() if parameter.requires_grad)
    return LoraCount(len(modules), trainable, total)
