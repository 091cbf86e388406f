"""Stages of making the built-in model that are kept: an interrupted or changed recipe repeats only what has to be repeated."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration as Llava

from parallax.records.atomic import atomic_file
from parallax.records.fingerprint import fingerprint

SHAPED_BY = {  # the settings that shape a stage, besides those of the stages before it
    "vision_training": ("seed", "image", "vision"),
    "look_up_training": ("tokenizer", "language"),
    "talk_training": (),
}


def kept_stage(
    model: Llava, name: str, settings: dict[str, Any], teach: Callable[[], None], say: Callable[[str], None]
) -> float:
    """Teach a stage, or take its weights where they were kept. Returns the minutes its teaching took (or had taken).

    The vision stage keeps the tower, later ones the whole model. `settings["stages"]` is the folder; empty: keep nothing.
    """
    part = model.model.vision_tower if name == "vision_training" else model
    file = Path(settings["stages"]) / f"{name}-{stage_key(name, settings)}.safetensors"
    if settings["stages"] and file.is_file():
        part.load_state_dict(load_file(file))
        model.model.vision_tower.requires_grad_(False)
        with safe_open(file, "pt") as header:
            minutes = float(header.metadata()["minutes"])
        say(f"{name}: kept in {file} (took {minutes:.1f} minutes)")
        return minutes
    torch.manual_seed(settings["seed"])
    started = time.monotonic()
    teach()
    minutes = (time.monotonic() - started) / 60
    if settings["stages"]:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as temporary:
            save_file({k: v.contiguous() for k, v in part.state_dict().items()}, temporary, {"minutes": str(minutes)})
    return minutes


def stage_key(name: str, settings: dict[str, Any]) -> str:
    """By what a kept stage is found: every setting that shapes it or a stage before it."""
    names = list(SHAPED_BY)[: list(SHAPED_BY).index(name) + 1]
    return fingerprint({key: settings[key] for stage in names for key in (stage, *SHAPED_BY[stage])})
