"""Run folders read back: which folders are runs, and what each of them says. Nothing but files is needed."""

from __future__ import annotations

import csv
import glob
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from parallax.evaluation.evaluation import Evaluation
from parallax.records.atomic import finite
from parallax.records.plain_text import quoted
from parallax.records.yaml_file import read_yaml
from parallax.reports.metrics_csv import read_metrics
from parallax.settings.left_by_runs import is_run

log = logging.getLogger(__name__)

SIDES = ("before", "after", "difference", "relative_change")


@dataclass
class RunFolder:
    """One run as its folder tells it. `problem` says why there are no results; "" when there are."""

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)  # resolved
    chosen: dict[str, str] = field(default_factory=dict)  # group -> choice, as Hydra noted them
    typed: tuple[str, ...] = ()  # keys given on the command line
    results: dict[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def task(self) -> str:
        """The task that made it; a folder that does not say is taken for a run."""
        task = self.config.get("task")
        return str(task.get("name", "align")) if isinstance(task, Mapping) else "align"

    @cached_property
    def curves(self) -> dict[str, list[dict[str, str]]]:
        """Stage → rows of its metrics.csv; the stage is "" where the run has only one file."""
        logged = by_number(self.folder.glob("stages/**/metrics.csv"))
        try:
            found = {str(path.parent.relative_to(self.folder / "stages")): read_metrics(path) for path in logged}
            return found or {"": read_metrics(self.folder / "metrics.csv")}
        except (OSError, ValueError, csv.Error) as error:
            log.warning("the curves of %s are left out: %s", self.folder, quoted(error))
            return {}

    def evaluation(self, when: str) -> Evaluation | None:
        """The evaluation `before` (of the first stage) or `after` (of the last); None where there is none to read."""
        found = by_number(
            [*self.folder.glob(f"stages/**/eval_{when}.json"), *self.folder.glob(f"evaluations/{when}.json")]
        )
        try:
            return Evaluation.load(found[0 if when == "before" else -1]) if found else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            log.warning("the answers of %s are left out: %s", self.folder, error)
            return None


def find_runs(paths: Sequence[Path | str]) -> list[Path]:
    """Run folders among and below `paths`, each once, those of one parent in the order of their numbers.

    A path may be a run folder, a folder of runs (a multirun, a sweep, a study) or a pattern such as `outputs/2026-*/*`.

    A folder without runs among others (a job that failed before it began) is left out with a word.

    Raises:
        FileNotFoundError: a path leads nowhere, or there is no run below any of them.
    """
    found: dict[Path, Path] = {}
    empty = []
    for path in paths:
        text = str(Path(path).expanduser())
        is_pattern = glob.has_magic(text) and not Path(text).exists()
        places = by_number([Path(place) for place in glob.glob(text)]) if is_pattern else [Path(text)]
        if not any(place.exists() for place in places):
            raise FileNotFoundError(f"{path} is not there; give run folders, or a folder of runs")
        runs = [run for place in places for run in _runs_below(place)]
        empty += [] if runs else [path]
        for run in runs:
            found.setdefault(run.resolve(), run)
    if not found:
        raise FileNotFoundError(f"{paths[0] if paths else 'nothing'} holds no run (no config.yaml below it)")
    for path in empty:
        log.warning("%s is left out: it holds no run", path)
    return list(found.values())


def read_run(folder: Path | str) -> RunFolder:
    """What is there of a run. Never fails: a file that cannot be read is said in `problem`."""
    run = RunFolder(Path(folder))
    try:
        run.config = finite(_yaml(run.folder / "config.yaml") or _yaml(run.folder / ".hydra" / "config.yaml"))
        choices = ((_yaml(run.folder / ".hydra" / "hydra.yaml").get("hydra") or {}).get("runtime") or {}).get("choices")
        run.chosen = {str(group): str(choice) for group, choice in (choices or {}).items() if choice is not None}
        run.typed = tuple(_typed(run.folder))
        results = run.folder / "results.json"
        if results.is_file():
            run.results = _sound(json.loads(results.read_text("utf-8")))
        else:
            run.problem = _last_error(run.folder) or "it has not finished"
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        run.problem = f"it cannot be read ({quoted(error)})"
    return run


def by_number(paths: Iterator[Path] | Sequence[Path]) -> list[Path]:
    """Sorted as people count: `…/2` before `…/10`."""
    return sorted(paths, key=lambda path: [(0, int(part), "") if part.isdigit() else (1, 0, part)
                                           for part in re.split(r"(\d+)", str(path))])  # fmt: skip


def _runs_below(place: Path) -> Iterator[Path]:
    if is_run(place):
        yield place
        return
    if place.is_dir():
        for child in by_number([child for child in place.iterdir() if child.is_dir() and child.name[:1] != "."]):
            yield from _runs_below(child)


def _typed(folder: Path) -> Iterator[str]:
    overrides = folder / ".hydra" / "overrides.yaml"
    words = read_yaml(overrides) if overrides.is_file() else json_of(folder / "environment.json").get("command")
    for word in words if isinstance(words, list) else []:
        key, equals, _ = str(word).lstrip("+~").partition("=")
        if equals:
            yield key


def _last_error(folder: Path) -> str:
    """The last error in the run's log, without its trace."""
    log_file = folder / "run.log"
    if not log_file.is_file():
        return ""
    lines = log_file.read_text("utf-8", errors="replace").splitlines()
    for line in reversed(lines[-400:]):
        if re.match(r"^[\w.]*(Error|Exception|Interrupt|Exit)\b", line) or " ERROR " in line:
            return f"it stopped with: {line.strip()[:200]}"
    return ""


def _sound(results: object) -> dict[str, Any]:
    """The content of a `results.json`. Raises ValueError for what another program, or nobody, would have written."""
    if not isinstance(results, dict):
        raise ValueError("results.json holds no mapping")
    for side in SIDES:
        for name, metric in (results.get(side) or {}).items():
            parts = [metric.get(part) for part in ("value", "low", "high")] if isinstance(metric, dict) else [""]
            if any(isinstance(part, bool) or not isinstance(part, int | float | None) for part in parts):
                raise ValueError(f"results.json has no numbers for {side}/{name}")
            results[side][name] = {"value": None, "low": None, "high": None, "n": 0, **metric}
    pairs = results.get("pairs") or {}
    if not isinstance(pairs, dict) or not isinstance(pairs.get("dropped") or {}, dict):
        raise ValueError("results.json does not say how many pairs there were")
    if any(type(count) is not int for count in [pairs.get("kept") or 0, *(pairs.get("dropped") or {}).values()]):
        raise ValueError("results.json has numbers of pairs that are none")
    return results


def json_of(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty where there is none."""
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def _yaml(path: Path) -> dict[str, Any]:
    found = read_yaml(path) if path.is_file() else {}
    return dict(found) if isinstance(found, Mapping) else {}
