"""The task `make_tiny_clip`: makes the built-in image-text model anew (`python run.py experiment=make_tiny_clip`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from parallax.small_world.clip.build import make_tiny_clip


def run(cfg: DictConfig) -> dict[str, Any]:
    """Make the model as `cfg.tiny_clip` says. Returns the folder it lies in and what was measured on it."""
    settings = OmegaConf.to_container(cfg.tiny_clip, resolve=True)
    folder = make_tiny_clip(settings)  # type: ignore[arg-type]
    manifest = json.loads((Path(folder) / "manifest.json").read_text())
    return {"folder": str(folder), **manifest["measured"]}
