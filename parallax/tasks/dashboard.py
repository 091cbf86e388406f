"""The W&B workspace and report of the project, saved online, or written to a file that says the same."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from parallax.records.plain_text import say
from parallax.reports.dashboard import Wanted, build_report, build_workspace
from parallax.reports.dashboard_file import read_specification, save_online, specification, write_specification
from parallax.reports.run_log import run_log
from parallax.reports.wandb_reach import wandb_mode
from parallax.settings.errors import ConfigError
from parallax.settings.groups import Task
from parallax.settings.places import COMMAND

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keys(Task):
    project: str
    entity: str | None
    mode: Literal["auto", "online", "offline"]
    metrics: Sequence[str]
    settings: Sequence[str]
    tables: Sequence[str]
    group: str | None
    file: str
    apply: str | None


def run(cfg: DictConfig) -> None:
    """Build both (or read `task.apply`), write them to `task.file`, and save them where W&B can be reached.

    Raises:
        ConfigError: `task.apply` holds no specification, or W&B could not be reached though `task.mode=online` asks for it.
        RuntimeError: W&B did not take the views; the file has them.
    """
    task: dict[str, Any] = OmegaConf.to_container(cfg.task, resolve=True)  # type: ignore[assignment]
    path = Path(task["apply"] or task["file"])
    with run_log(Path(str(cfg.paths.output_dir))):
        if task["apply"]:
            try:
                views = read_specification(path)
            except ValueError as error:
                raise ConfigError(f"task.apply: {error}") from error
        else:
            views = _built(task, cfg)
            write_specification(views, path)
        again = f"{COMMAND} task=dashboard task.apply={path}"
        mode, why = wandb_mode({"mode": task["mode"]})
        if mode != "online":
            if task["mode"] == "online":
                raise ConfigError(
                    f"task.mode=online, but {why or 'WANDB_MODE says offline'}. The specification is in {path}; later: {again}"
                )
            say(f"specification of the dashboard in {path}" + (f" ({why})" if why else ""))
            say(f"to apply it where W&B can be reached: wandb login, then {again}")
            return
        try:
            saved = save_online(views, path)
        except Exception as error:  # of the network, of the key, of the project: in W&B's own words
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise RuntimeError(f"W&B did not take the dashboard ({reason}). It is in {path}; later: {again}") from error
        say("\n".join(f"{name}: {address}" for name, address in saved.items()))


def _built(task: dict[str, Any], cfg: DictConfig) -> dict[str, Any]:
    metrics, settings, tables = (tuple(task[name]) for name in ("metrics", "settings", "tables"))
    wanted = Wanted(task["project"], task["entity"] or "", metrics, settings, tables, task["group"])
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=False)  # type: ignore[assignment]
    return specification(build_workspace(wanted), build_report(wanted, config))
