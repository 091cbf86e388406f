"""A W&B sweep file run here, without W&B: `python run.py task=sweep sweep=sweeps/noise_steps.yaml sweep_jobs=2`.

Every point is an ordinary run in a folder of its own, named by its values. The folder of a sweep is not named by date: the same
command goes on where it stopped, and a point whose configuration has not changed is not run again.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from parallax.records.fingerprint import fingerprint
from parallax.records.plain_text import say
from parallax.reports.results import flat_metrics
from parallax.reports.sweep_progress import SweepProgress
from parallax.settings.command_line import compose_checked
from parallax.settings.errors import ConfigError
from parallax.settings.groups import Task
from parallax.settings.sweep_file import SweepFile, point_words, read_sweep
from parallax.tasks.multirun import failure_in, finish
from parallax.tasks.naming import typed_words
from parallax.tasks.recipe import run_key
from parallax.tasks.run_state import clear_other_run, is_finished
from parallax.tasks.sweep_pool import Job, run_jobs

FOLDER = "outputs/sweeps"  # where sweeps go that name no folder
LONGEST_NAME = 80  # characters of a point's folder
OF_THE_SWEEP = ("task", "task.", "sweep=", "sweep_jobs=", "paths.output_dir=", "hydra.", "hydra/")  # typed for it alone


@dataclass(frozen=True)
class Keys(Task):
    is_run: ClassVar[bool] = True

    folder: str | None


def run(cfg: DictConfig) -> float:
    """Run all points of the file; returns the best value of its metric, nan when no run has it."""
    sweep = read_sweep(str(cfg.sweep))
    folder = Path(cfg.task.folder or Path(FOLDER) / sweep.name)
    jobs = planned(sweep, folder, typed_words(), seed=int(cfg.seed))
    finished = [job for job in jobs if _is_done(job)]
    left = [job for job in jobs if job not in finished]
    say(
        f"sweep {sweep.name}: {len(jobs)} points in {folder}"
        + (f", {len(finished)} of them done before and kept" if finished else "")
    )
    failures: dict[str, str] = {}
    for job in left:
        _clear_other_recipe(job)
    environment = {} if os.environ.get("WANDB_RUN_GROUP") else {"WANDB_RUN_GROUP": sweep.name}
    with SweepProgress(sweep.name, len(jobs), len(finished)) as progress:

        def tick(busy: Sequence[Job]) -> None:
            progress.running([(job.name, job.folder) for job in busy])

        for job, reason in run_jobs(left, int(cfg.sweep_jobs), environment=environment, tick=tick):
            if reason:
                failures[job.name] = f"{reason} (see {job.folder / 'console.log'})"
            progress.finished(job.name, f"failed, {reason}" if reason else _outcome(sweep, job.folder))
    failed = finish(folder, [job.folder for job in jobs if job.name not in failures], failures, job="point")
    best = _best(sweep, [job for job in jobs if job.name not in failures])
    if best is not None:
        say(f"best {sweep.metric}: {best[1]:.4g}, {best[0].name}")
    if failed:
        sys.exit(1)
    return best[1] if best is not None else math.nan


def planned(sweep: SweepFile, folder: Path, typed: Sequence[str], *, seed: int = 0) -> list[Job]:
    """The jobs of a sweep. Words that were typed come last and win; a swept key that was typed is not swept.

    Raises:
        ConfigError: a point's configuration is refused; none has run then.
    """
    extra = [word for word in typed if not word.startswith(OF_THE_SWEEP)]
    fixed = frozenset(_key(word) for word in extra)
    points = {
        tuple(point_words(point)): point for point in sweep.points(seed=seed, fixed=fixed)
    }  # drawn twice, run once
    jobs = []
    for name, point in zip(_point_names(list(points.values())), points.values(), strict=True):
        words = _last_wins([*sweep.words, *point_words(point), *extra])
        place = folder / name
        jobs.append(Job(name, place, (*words, f'hydra.run.dir="{place}"')))
    for job in jobs:
        try:
            _plain(job)
        except ConfigError as error:
            raise ConfigError([f"{problem} (point {job.name})" for problem in error.problems]) from error
    return jobs


def _point_names(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """A folder's name for each point; names that would be the same, also where capitals do not count, get a fingerprint."""
    names = [point_name(point) for point in points]
    taken = Counter(name.casefold() for name in names)
    return [
        name if taken[name.casefold()] == 1 else f"{name[:LONGEST_NAME]}_{fingerprint(point_words(point))[:8]}"
        for name, point in zip(names, points, strict=True)
    ]


def point_name(point: Mapping[str, Any]) -> str:
    """A name for a point: `noise_steps_500__beta_0.1`. Points that differ may have the same."""
    parts = [
        f"{key.rsplit('.', 1)[-1]}_{f'{value:g}' if isinstance(value, float) else value}"
        for key, value in point.items()
    ]
    name = re.sub(r"[^\w.\-]+", "_", "__".join(parts)) or "only"
    keys = [key.rsplit(".", 1)[-1] for key in point]
    exact = len(set(keys)) == len(keys) and all(
        not isinstance(v, float) or float(f"{v:g}") == v for v in point.values()
    )
    if len(name) <= LONGEST_NAME and exact:
        return name
    return f"{name[: LONGEST_NAME - 9]}_{fingerprint(point_words(point))[:8]}"


def _outcome(sweep: SweepFile, folder: Path) -> str:
    value = value_of(sweep.metric, folder)
    return f"{sweep.metric} {value:.4g}" if value is not None else "done"


def value_of(metric: str, folder: Path) -> float | None:
    """A logged metric of a finished run, by the name it has in W&B; None when the run has no such number."""
    path = folder / "results.json"
    found = flat_metrics(json.loads(path.read_text("utf-8"))).get(metric) if path.is_file() else None
    return found if found is not None and math.isfinite(found) else None


def _best(sweep: SweepFile, jobs: Sequence[Job]) -> tuple[Job, float] | None:
    valued = [(job, value) for job in jobs if (value := value_of(sweep.metric, job.folder)) is not None]
    return min(valued, key=lambda pair: pair[1] if sweep.minimize else -pair[1]) if valued else None


def _is_done(job: Job) -> bool:
    return not failure_in(job.folder) and is_finished(job.folder, run_key(_plain(job)))


def _clear_other_recipe(job: Job) -> None:
    """A run of this sweep's folder whose configuration has changed since is made anew."""
    if clear_other_run(job.folder, run_key(_plain(job))):
        say(f"{job.name} ran with another configuration before; it is made again")


@cache
def _plain(job: Job) -> dict[str, Any]:
    """The job's checked configuration as plain data."""
    cfg = compose_checked([word for word in job.words if not word.startswith("hydra")])
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def _last_wins(words: Sequence[str]) -> list[str]:
    """Of several words about one key the last."""
    return list({_key(word): word for word in words}.values())


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")
