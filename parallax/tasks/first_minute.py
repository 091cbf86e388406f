"""What a run does before anything slow: it says what it is about to load, and leaves out what it will not use."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lightning_modules.light_imports import light_imports
from parallax.records.plain_text import say
from parallax.reports.run_log import is_shown, quiet_third_parties
from parallax.settings.errors import ConfigError
from parallax.settings.launchers import has_no_gpu
from parallax.settings.tasks import task_fact
from parallax.tasks.run_folder import is_helper

BY_BITSANDBYTES = ("8bit", "paged", "nf4", "int8")  # in names of optimisers and quantisations


def first_minute(cfg: DictConfig) -> None:
    """Say what is loaded; keep the noise and the weight of others away. Takes no time and imports nothing slow."""
    quiet_third_parties()
    light_imports()
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    loads = (
        "model" in task_fact(config["task"]["name"], "reads") and "pairs" not in config["task"]
    )  # which may be ready-made
    if loads and config["trainer"]["accelerator"] == "gpu" and has_no_gpu():
        raise ConfigError("trainer.accelerator=gpu, and there is no GPU here. Use trainer=cpu or trainer=auto.")
    if loads and not is_helper() and is_shown():
        say(loading_line(config))


def leave_out_unused(cfg: DictConfig) -> None:
    """Have `import bitsandbytes` fail in this process, as if it were not installed, unless the run uses it.

    peft imports it wherever it finds it, which takes seconds. For a process that does this one run and nothing else.
    """
    if not needs_bitsandbytes(OmegaConf.to_container(cfg, resolve=True)):  # type: ignore[arg-type]
        sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]


def loading_line(config: Mapping[str, Any]) -> str:
    """`align tiny_llava on shapes by seva: loading torch, transformers and the model`."""
    chosen = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    task = config["task"]["name"]
    on = f" on {chosen['data']}" if task in ("align", "build_pairs") and chosen.get("data") else ""
    by = f" by {config['method']['name']}" if task in ("align", "build_pairs") else ""
    return f"{task} {config['model']['name']}{on}{by}: loading torch, transformers and the model"


def needs_bitsandbytes(config: Mapping[str, Any]) -> bool:
    """Whether an optimiser, a quantisation or the model's own file asks for it; a model that is not a folder here may."""
    asked = any(word in text for text in _texts(config, ("name", "quantization")) for word in BY_BITSANDBYTES)
    if asked:
        return True
    try:
        return "quantization_config" in json.loads(
            (Path(config["model"]["path"]).expanduser() / "config.json").read_text()
        )
    except (OSError, ValueError):
        return True


def _texts(node: object, keys: tuple[str, ...]) -> Iterator[str]:
    """The values of these keys, at any depth."""
    for key, value in node.items() if isinstance(node, Mapping) else enumerate(node if isinstance(node, list) else ()):
        if key in keys and value is not None:
            yield str(value)
        yield from _texts(value, keys)
