"""How a run is called where runs are listed: its name says what differs, its group which runs belong together."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from parallax.records.yaml_file import read_yaml
from parallax.settings.tasks import task_fact

LONGEST_NAME = 120  # characters
SILENT = (
    "hydra",
    "paths.",
    "logger",
    "resume",
    "experiment",
    "tags",
    "sweep",
)  # typed words that say nothing about the run


def place_of_task(task: str) -> str:
    """The folder below which a task's own folder is made: `outputs` for runs, `made/<task>` for everything else."""
    return "outputs" if task_fact(task, "is_run") else f"made/{task}"


OmegaConf.register_new_resolver("place", place_of_task, replace=True)  # for hydra.run.dir in conf/config.yaml


def typed_words() -> list[str]:
    """What was typed for this run or job; nothing outside a program of Hydra's."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def is_multirun() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def own_words() -> list[str]:
    """The typed words of a multirun's job that the other jobs do not share; of a single run all of them."""
    words = typed_words()
    if not is_multirun():
        return words
    shared = _of_the_multirun(Path(str(HydraConfig.get().sweep.dir)))
    return [word.lstrip("+") for word in words if word not in shared]


def run_name(config: Mapping[str, Any]) -> str:
    """What differs from the defaults, as typed; the method's name when nothing does."""
    words = [word for word in own_words() if not word.startswith(SILENT)]
    return " ".join(words)[:LONGEST_NAME] or str(config["method"]["name"])


def group_name() -> str | None:
    """The sweep, the experiment or the multirun that the run belongs to; None for a run on its own."""
    sweep = os.environ.get("WANDB_SWEEP_ID")
    if sweep:
        return f"sweep {sweep}"
    if not HydraConfig.initialized():
        return None
    experiment = HydraConfig.get().runtime.choices.get("experiment")
    if experiment:
        return str(experiment)
    if is_multirun():
        folder = Path(str(HydraConfig.get().sweep.dir))
        return " ".join([*folder.parts[-3:-1], folder.name]).removeprefix("/ ").removeprefix("/")
    return None


def tag_words(config: Mapping[str, Any]) -> list[str]:
    """The run's own tags, and what it ran: method, model, kind of data."""
    chosen = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    what = [config["method"]["name"], config["model"].get("name"), chosen.get("data")]
    return list(dict.fromkeys(str(tag) for tag in [*(config.get("tags") or []), *what] if tag))


def _of_the_multirun(folder: Path) -> Sequence[str]:
    path = folder / "multirun.yaml"
    if not path.is_file():
        return []
    return [str(word) for word in OmegaConf.select(OmegaConf.create(read_yaml(path)), "hydra.overrides.task") or []]
