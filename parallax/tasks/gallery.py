"""A page to browse the pairs and answers of one run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Interval
from omegaconf import DictConfig

from parallax.records.plain_text import say
from parallax.reports.gallery import count_items, write_gallery
from parallax.reports.progress import answer_progress
from parallax.reports.run_folder import find_runs
from parallax.reports.run_log import run_log
from parallax.settings.errors import ConfigError
from parallax.settings.groups import Task
from parallax.settings.ranges import Count

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keys(Task):
    output: str | None
    thumbnail: Annotated[int, Interval(ge=0, le=1024)]
    limit: Count | None


def run(cfg: DictConfig) -> None:
    """Make the gallery of `run` in `task.output` (default: the run's own folder)."""
    with run_log(Path(cfg.paths.output_dir)):
        try:
            folders = find_runs([cfg.run])
            if len(folders) > 1:
                raise ConfigError(
                    f"run={cfg.run} holds {len(folders)} runs; name one of them, such as run={folders[0]}"
                )
            limit, total = cfg.task.limit, count_items(folders[0])
            with answer_progress("pairs and answers", total if limit is None else min(total, 2 * limit)) as done:
                page = write_gallery(
                    folders[0], cfg.task.output or folders[0], thumbnail=cfg.task.thumbnail, limit=limit, progress=done
                )
        except FileNotFoundError as error:
            raise ConfigError(f"run: {error}") from error
        say(f"gallery in {page}")
