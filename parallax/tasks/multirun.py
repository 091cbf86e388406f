"""A multirun (`python run.py -m …`): a job that fails does not stop the others, and the end says what came out.

`run_job` is what run.py calls for every job. `MultirunEnd` is a Hydra callback (`hydra.callbacks` in conf/config.yaml): after the
last job it says how much work the jobs shared, lists those that failed with their reasons, and has the others compared.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from parallax.records.atomic import atomic_write_json
from parallax.records.plain_text import say
from parallax.reports.metric_names import direction, lookup
from parallax.reports.run_log import only_warnings
from parallax.settings.check import check
from parallax.tasks import number_of, run_task
from parallax.tasks.naming import is_multirun, own_words
from parallax.tasks.run_folder import is_helper, took_place

log = logging.getLogger(__name__)

FAILURE = "failure.json"  # in the folder of a job that failed: reason, trace
ELSEWHERE = "elsewhere.json"  # in the folder of a job that went on in (or was finished in) that of an earlier multirun: its place


def run_job(cfg: DictConfig) -> float | None:
    """Check the configuration and run its task. A job of a multirun that fails leaves the reason behind and returns nan.

    Optuna takes no nan and would end the search; a job without a number returns None to it, which it takes as a failed trial.
    """
    if not is_multirun():
        check(cfg)
        return number_of(run_task(cfg), cfg)
    folder = Path(HydraConfig.get().runtime.output_dir)
    for old in (FAILURE, ELSEWHERE):
        (folder / old).unlink(missing_ok=True)
    took_place()  # forgets that of the job before
    name, started = f"job {HydraConfig.get().job.num}, {' '.join(own_words()) or 'as it stands'}", time.perf_counter()
    try:
        check(cfg)
        with only_warnings():
            value = number_of(run_task(cfg), cfg)
        place = _note_place(folder)
        said = "done" if math.isnan(value) else f"{cfg.optimized_metric} {value:.4g}"
        say(f"{name}: {said} ({time.perf_counter() - started:.0f} s, {place})")
        return _to_sweeper(value)
    except Exception as error:
        note_failure(folder, error)
        say(f"{name}: failed, {reason_of(error)}", sys.stderr)
        return _to_sweeper(math.nan)


def _to_sweeper(value: float) -> float | None:
    by_optuna = "optuna" in str(HydraConfig.get().sweeper.get("_target_", ""))
    return None if by_optuna and math.isnan(value) else value


class MultirunEnd(Callback):
    """Says what a multirun came to; ends the program with status 1 when a job failed."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(str(config.hydra.sweep.dir))
        jobs = sorted(jobs_in(folder), key=_by_number)
        failures = {str(job.relative_to(folder)): reason for job in jobs if (reason := failure_in(job))}
        good = [job for job in jobs if not failure_in(job)]
        failed = finish(folder, [place_of(job) for job in good], failures)
        if (best := best_of(good, str(config.optimized_metric))) is not None:
            say(f"best {config.optimized_metric}: {best[1]:.4g}, job {best[0].relative_to(folder)}")
        if failed:
            sys.exit(1)


def best_of(jobs: Sequence[Path], metric: str) -> tuple[Path, float] | None:
    """The job whose `results.json` has the best value at the path `metric`, and the value; None where none was measured."""
    found = {}
    for job in jobs:
        path = place_of(job) / "results.json"
        value = lookup(json.loads(path.read_text("utf-8")), metric) if path.is_file() else math.nan
        if math.isfinite(value):
            found[job] = value
    if not found:
        return None
    best = max(found, key=lambda job: found[job] * (direction(metric) or 1))
    return best, found[best]


def jobs_in(folder: Path) -> set[Path]:
    """Folders of a multirun's jobs, those that took place elsewhere included."""
    marks = (".hydra/overrides.yaml", FAILURE, ELSEWHERE)
    return {
        folder / path.relative_to(folder).as_posix().removesuffix(mark)
        for mark in marks
        for path in folder.glob(f"**/{mark}")
    }


def place_of(job: Path) -> Path:
    """Where a job took place."""
    path = job / ELSEWHERE
    return Path(json.loads(path.read_text("utf-8"))["folder"]) if path.is_file() else job


def _note_place(folder: Path) -> Path:
    """Where the job took place, noted in its own folder if that was elsewhere."""
    place = took_place()
    if place is not None and place.resolve() != folder.resolve() and not is_helper():
        atomic_write_json(folder / ELSEWHERE, {"folder": str(place.resolve())})
        return place
    return folder


def finish(folder: Path, finished: Sequence[Path], failures: Mapping[str, str], *, job: str = "job") -> bool:
    """The end of any set of runs: work shared, comparison, failures. Returns whether any job failed.

    Args:
        folder: of the whole set; the comparison goes there.
        finished: folders of the jobs that ended well; those without results.json (other tasks) are not compared.
        failures: job → its reason.
    """
    with_results = [path for path in finished if (path / "results.json").is_file()]
    if with_results:
        _compare(with_results, folder)
        say(shared_work(with_results).line())
    if failures:
        say(f"{len(failures)} of {len(failures) + len(finished)} {job}s failed:", sys.stderr)
        for name, reason in failures.items():
            say(f"  {job} {name}: {reason}", sys.stderr)
    return bool(failures)


def _compare(folders: Sequence[Path], out: Path) -> None:
    """Runs side by side: a table here, a page and a CSV file in `out`. What goes wrong there costs no run."""
    try:
        from parallax.reports.comparison import compare_runs  # loads torch; a refused multirun needs none

        say(f"comparison in {compare_runs(list(folders), out)}")
    except Exception as error:
        say(f"the runs could not be compared: {reason_of(error)}", sys.stderr)


def note_failure(folder: Path, error: BaseException) -> None:
    """Leave the reason and the trace in the job's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    trace = "".join(traceback.format_exception(error))
    atomic_write_json(folder / FAILURE, {"reason": reason_of(error), "trace": trace})


def failure_in(folder: Path) -> str:
    """Why the job in this folder failed; empty when it did not."""
    path = folder / FAILURE
    return str(json.loads(path.read_text("utf-8"))["reason"]) if path.is_file() else ""


def reason_of(error: BaseException) -> str:
    """An error in one line; the kind in front where its words alone would puzzle."""
    text = " ".join(str(error).split())
    plain = isinstance(error, ValueError | RuntimeError | OSError) and len(text) > 20
    return text if plain else f"{type(error).__name__}: {text}".rstrip(": ")


def _by_number(path: Path) -> tuple[int, str]:
    return (int(path.name), "") if path.name.isdigit() else (sys.maxsize, str(path))


@dataclass(slots=True)
class SharedWork:
    """Counts over all runs."""

    runs: int = 0
    generated: int = 0  # answers
    reused: int = 0  # answers found in the cache
    references_computed: int = 0  # pairs whose reference log-probs were scored
    references_reused: int = 0
    evaluations: int = 0
    evaluations_reused: int = 0  # of which every answer was found in the cache

    def line(self) -> str:
        """E.g. `9 runs: answers 640 generated, 2,240 reused; reference log-probs 307 computed, 701 reused; …`."""
        parts = [f"answers {self.generated:,} generated, {self.reused:,} reused"]
        if self.references_computed or self.references_reused:
            parts.append(
                f"reference log-probs {self.references_computed:,} computed, {self.references_reused:,} reused"
            )
        if self.evaluations:
            parts.append(
                f"evaluations {self.evaluations - self.evaluations_reused:,} made, {self.evaluations_reused:,} reused"
            )
        return f"{self.runs} {'run' if self.runs == 1 else 'runs'}: {'; '.join(parts)}"


def shared_work(folders: Sequence[Path]) -> SharedWork:
    """Add up the runs in these folders; a folder without results counts nothing."""
    work = SharedWork()
    for folder in folders:
        pairs = _json(folder / "results.json").get("pairs")
        if pairs is None:
            continue
        work.runs += 1
        work.generated += int(pairs.get("built", 0))
        work.reused += int(pairs.get("reused", 0))
        for path in sorted(folder.glob("stages/**/fit.json")):
            references = _json(path).get("references") or {}
            work.references_computed += int(references.get("computed", 0))
            work.references_reused += int(references.get("reused", 0))
        for path in sorted(folder.glob("stages/**/eval_*.json")):
            work.evaluations += 1
            work.evaluations_reused += bool((_json(path).get("meta") or {}).get("reused"))
    return work


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}
