"""Fold an adapter into its base: the folder that comes out is a plain transformers model with its processor."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from parallax.reports.run_log import run_log
from parallax.settings.groups import Lora, Task
from parallax.tasks.parts import make_policy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keys(Task):
    reads: ClassVar[tuple[str, ...]] = ("model",)

    output: str | None


def run(cfg: DictConfig) -> None:
    """Merge `adapter` into `model` and write it to `task.output` (default: merged/ in the run folder)."""
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    folder = Path(config["paths"]["output_dir"])
    output = Path(config["task"]["output"] or folder / "merged")
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"task.output={output} is not empty; name a folder that does not exist yet")
    with run_log(folder):
        lora = replace(Lora.of(config["lora"]), enabled=True)
        make_policy(config, lora, adapter=config["adapter"], device="cpu").save_merged(output, corrupt=True)
        log.info("merged model in %s", output)
