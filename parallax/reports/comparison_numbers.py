"""The numbers of a comparison: for each run its metrics with intervals, and which runs are best, or as good as the best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parallax.evaluation.evaluation import Evaluation, difference
from parallax.evaluation.ratio import Metric
from parallax.reports.metric_names import direction, short_name
from parallax.reports.metrics_csv import late_mean
from parallax.reports.results import HEADLINE, metric_of, metric_order
from parallax.reports.run_folder import RunFolder, read_run
from parallax.reports.what_differs import ABSENT, Setting, settings_that_differ, value_words

MEASURE = ("align", "evaluate")  # tasks whose runs have something to compare
TRAINING = {"margin": "train/rewards/margins", "loss": "train/loss"}  # of which the late mean is told


@dataclass
class ComparedRun:
    """One run of a comparison."""

    name: str  # short and unlike the others' names
    label: str  # what sets it apart: `noise_steps=500 beta=0.1`
    run: RunFolder
    settings: dict[str, Any] = field(default_factory=dict)  # key -> value, of the keys that differ
    metrics: dict[str, Metric] = field(default_factory=dict)  # after, or of the only measurement there is
    changes: dict[str, Metric] = field(default_factory=dict)  # after − before
    training: dict[str, float] = field(default_factory=dict)  # mean over the last quarter of the last stage's steps
    best: set[str] = field(default_factory=set)  # metrics at which no run is better
    near: set[str] = field(default_factory=set)  # metrics at which the best run is not clearly better

    @property
    def pairs(self) -> tuple[int, int] | None:
        """Kept and dropped; None for a run that built none."""
        counts = self.run.results.get("pairs") or {}
        kept, dropped = int(counts.get("kept") or 0), sum((counts.get("dropped") or {}).values())
        return (kept, dropped) if kept or dropped else None


@dataclass
class Comparison:
    """Runs side by side."""

    runs: list[ComparedRun]
    settings: list[Setting]
    metrics: list[str]  # headline metrics first
    left_out: list[str] = field(
        default_factory=list
    )  # sentences: folders that are no runs, numbers that are not ranked

    @property
    def headline(self) -> list[str]:
        """The metrics most readers look at: those of the results table, else the first few."""
        return [name for name in self.metrics if name in HEADLINE] or self.metrics[:5]


def compare(folders: Sequence[Path]) -> Comparison:
    """Read run folders and put their numbers side by side, in the order given."""
    every = [read_run(folder) for folder in folders]
    helpers = [run for run in every if run.task not in MEASURE]
    runs = [run for run in every if run.task in MEASURE] or every
    settings = settings_that_differ(runs)
    names = _names([run.folder for run in runs])
    compared = [
        _compared(run, name, number, settings) for number, (run, name) in enumerate(zip(runs, names, strict=True))
    ]
    measured = {name: metric.to_dict() for run in compared for name, metric in run.metrics.items()}
    comparison = Comparison(compared, settings, metric_order({"before": {}, "after": measured}))
    if helpers and runs is not every:
        kinds = ", ".join(dict.fromkeys(run.task for run in helpers))
        said = "folder is" if len(helpers) == 1 else "folders are"
        comparison.left_out.append(f"{len(helpers)} {said} left out: made by {kinds}, no runs that measure anything.")
    _mark_best(comparison)
    return comparison


def _compared(run: RunFolder, name: str, number: int, settings: Sequence[Setting]) -> ComparedRun:
    values = {setting.key: setting.values[number] for setting in settings}
    words = [f"{s.short}={value_words(values[s.key])}" for s in settings if values[s.key] != ABSENT]
    side = "after" if _measured(run.results, "after") else "before"
    training = {}
    last = list(run.curves.values())[-1] if run.curves else []
    for label, logged in TRAINING.items():
        late = late_mean(last, logged)
        if late is not None:
            training[label] = late
    return ComparedRun(
        name,
        " ".join(words) or name,
        run,
        values,
        _measured(run.results, side),
        _measured(run.results, "difference"),
        training,
    )


def _measured(results: Mapping[str, Any], side: str) -> dict[str, Metric]:
    found = {name: metric_of(plain) for name, plain in (results.get(side) or {}).items()}
    return {name: metric for name, metric in found.items() if metric.value is not None}


def _names(folders: Sequence[Path]) -> list[str]:
    """Each folder below what all have in common."""
    parts = [folder.resolve().parts for folder in folders]
    common = 0
    while all(len(p) > common + 1 for p in parts) and len({p[common] for p in parts}) == 1:
        common += 1
    return ["/".join(p[common:]) for p in parts]


def _mark_best(comparison: Comparison) -> None:
    """Best by value. As good as the best: the paired 95 % interval of the difference to it holds zero.

    Several runs may hold one value. Differences are taken where both runs kept their answers, for the headline metrics.
    """
    if sum(bool(run.metrics) for run in comparison.runs) < 2:
        return
    answers: dict[int, Evaluation | None] = {}

    def answers_of(run: ComparedRun) -> Evaluation | None:
        if id(run) not in answers:
            answers[id(run)] = run.run.evaluation("after") or run.run.evaluation("before")
        return answers[id(run)]

    for name in comparison.metrics:
        sign = direction(name)
        alike = _on_the_same_items([run for run in comparison.runs if name in run.metrics], name, answers_of)
        having = [(run, float(run.metrics[name].value or 0.0)) for run in alike]
        others = [run.name for run in comparison.runs if name in run.metrics and run not in alike]
        if others and name in comparison.headline:
            comparison.left_out.append(
                f"{short_name(name)} of {_listed(others)} was measured on other items and is not ranked."
            )
        if not sign or len(having) < 2:
            continue
        top = max(sign * value for _, value in having)
        best = [run for run, value in having if sign * value == top]
        if len(best) == len(having):
            continue
        for run in best:
            run.best.add(name)
        if name in comparison.headline:
            for run, _ in having:
                if run not in best and _as_good(answers_of(run), answers_of(best[0]), name):
                    run.near.add(name)


def _on_the_same_items(
    runs: Sequence[ComparedRun], name: str, answers_of: Callable[[ComparedRun], Evaluation | None]
) -> list[ComparedRun]:
    """The largest set of runs whose metric was measured on the same questions; as many of them, where answers were not kept."""
    groups: dict[object, list[ComparedRun]] = {}
    for run in runs:
        kept = answers_of(run)
        asked = frozenset(item.key for item in kept.items if name in item.scores) if kept is not None else None
        groups.setdefault(asked or run.metrics[name].n, []).append(run)
    return max(groups.values(), key=len, default=[])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _as_good(ours: Evaluation | None, best: Evaluation | None, metric: str) -> bool:
    if ours is None or best is None:
        return False
    one, other = _only(ours, metric), _only(best, metric)
    change = difference(one, other).get(metric)
    return change is not None and change.low is not None and not change.excludes_zero


def _only(evaluation: Evaluation, metric: str) -> Evaluation:
    """The same evaluation with one metric alone, so that only that one is resampled."""
    items = [item for item in evaluation.items if metric in item.scores]
    return Evaluation(
        {metric: evaluation.metrics[metric]} if metric in evaluation.metrics else {}, items, evaluation.meta
    )
