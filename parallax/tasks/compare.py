"""Runs side by side: a table on the screen, `compare.html` and `compare.csv`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from parallax.records.plain_text import say
from parallax.reports.comparison import compare_runs
from parallax.reports.run_log import run_log
from parallax.settings.errors import ConfigError
from parallax.settings.groups import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keys(Task):
    output: str | None
    pictures: bool


def run(cfg: DictConfig) -> None:
    """Compare the runs in and below `runs`; the files go to `task.output`, or into the folder that holds all of them."""
    runs = OmegaConf.to_container(cfg.runs) if OmegaConf.is_list(cfg.runs) else [cfg.runs]
    with run_log(Path(cfg.paths.output_dir)):
        try:
            out = Path(cfg.task.output) if cfg.task.output else None
            page = compare_runs([Path(str(path)) for path in runs], out, pictures=cfg.task.pictures)  # type: ignore[union-attr]
        except FileNotFoundError as error:
            raise ConfigError(f"runs: {error}") from error
        say(f"comparison in {page}")
