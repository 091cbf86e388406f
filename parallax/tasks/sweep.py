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
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from parallax.records.fingerprint import fingerprint
from parallax.records.plain_text import say, terminal
from parallax.reports.results import flat_metrics
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
        words = list(
            {_key(word): word for word in [*sweep.words, *point_words(point), *extra]}.values()
        )  # the last of a key
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


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


LAST_BYTES = 4096  # of a run's log that are looked at for its last line


class SweepProgress:
    """Use as a context manager around the sweep.

    Args:
        label: the sweep's name.
        total: jobs in all.
        done: jobs that were finished before.
        terminal: force or forbid the bars; None looks at standard error.
    """

    def __init__(self, label: str, total: int, done: int, *, terminal: bool | None = None) -> None:
        self.label, self.total, self.done, self.before = label, total, done, done
        self.terminal = sys.stderr.isatty() if terminal is None else terminal
        self.started = time.perf_counter()
        self._bars: Any = None
        self._lines: dict[str, Any] = {}

    def __enter__(self) -> SweepProgress:
        if self.terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn())
            self._bars = Progress(
                *columns, TimeElapsedColumn(), TextColumn("{task.fields[said]}"), console=terminal(stderr=True)
            )
            self._all = self._bars.add_task(self.label, total=self.total, completed=self.done, said="")
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def running(self, jobs: Sequence[tuple[str, Path]]) -> None:
        """What each job under way, (name, folder), said last."""
        if self._bars is None:
            return
        for name in set(self._lines) - {name for name, _ in jobs}:
            self._bars.remove_task(self._lines.pop(name))
        for name, folder in jobs:
            if name not in self._lines:
                self._lines[name] = self._bars.add_task(f"  {name}", total=None, said="")
            self._bars.update(self._lines[name], said=last_words(folder)[:90])

    def finished(self, name: str, outcome: str) -> None:
        """One more job has ended."""
        self.done += 1
        spent = time.perf_counter() - self.started
        left = spent / (self.done - self.before) * (self.total - self.done)
        line = f"{self.label}: {self.done} of {self.total} done, {name}: {outcome}"
        line += f"; about {duration(left)} left" if self.done < self.total else ""
        if self._bars is not None:
            self._bars.update(self._all, completed=self.done)
            self._bars.console.print(line, highlight=False, markup=False)
        else:
            say(line)


def last_words(folder: Path) -> str:
    """The last message of a run's log, without time and origin."""
    path = folder / "run.log"
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LAST_BYTES))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return "starting"
    said = [match[1] for line in lines if (match := re.match(r"[\d\-]+ [\d:,]+ INFO +[\w.]+: (.*)", line))]
    return said[-1] if said else "starting"


def duration(seconds: float) -> str:
    """`45 s`, `12 min` or `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
