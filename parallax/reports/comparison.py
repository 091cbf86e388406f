"""Runs side by side without a dashboard: a table on the screen, `compare.html` and `compare.csv`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from parallax.evaluation.ratio import Metric
from parallax.records import BadImage
from parallax.records.atomic import atomic_write_text
from parallax.reports.comparison_answers import Asked, as_data, most_telling, questions_of
from parallax.reports.comparison_numbers import ComparedRun, Comparison, compare
from parallax.reports.comparison_table import notes, print_comparison, write_csv
from parallax.reports.corrupted import Subject, data_uri, evaluation_subjects
from parallax.reports.method_words import setting_name
from parallax.reports.metric_names import direction, short_name, whole_name
from parallax.reports.metrics_csv import curve
from parallax.reports.pages import page
from parallax.reports.plots import panels, save, with_intervals
from parallax.reports.results import HEADLINE, is_minor, show, show_parts
from parallax.reports.run_folder import find_runs
from parallax.reports.what_differs import ABSENT, Setting, value_words


def compare_runs(folders: Sequence[Path], out: Path | None, *, pictures: bool = False) -> Path:
    """Print the table, write `compare.html` and `compare.csv` into the folder `out`, return the path of the page.

    Args:
        folders: run folders, or folders of runs. Runs without results are listed with the reason.
        out: made if it is not there; None is the lowest folder that holds all the runs.
        pictures: also draw each metric against each numeric setting, `compare_<setting>.png`.

    Raises:
        FileNotFoundError: a folder is not there or holds no run.
    """
    found = find_runs(folders)
    comparison = compare(found)
    print_comparison(comparison)
    out = out or Path(
        os.path.commonpath([run.absolute() for run in found] if len(found) > 1 else [found[0].absolute().parent])
    )
    out.mkdir(parents=True, exist_ok=True)
    write_csv(comparison, out / "compare.csv")
    if pictures:
        draw_pictures(comparison, out)
    page = write_page(comparison, out / "compare.html")
    return page


APART = 0.06  # between points of one place, of the way to the next


def draw_pictures(comparison: Comparison, folder: Path) -> list[Path]:
    """Write `compare_<setting>.png` for every numeric setting with two values or more: one panel for each headline metric.

    With two settings there is a line for each value of the other one; with more, runs of one value are averaged. Values stand
    beside each other in their order, however far apart: swept numbers double as often as they grow evenly.
    """
    drawn = []
    for setting in comparison.settings:
        if setting.numeric and len(setting.levels) > 1 and comparison.headline:
            name = "".join(c if c.isalnum() or c in "_-" else "_" for c in setting.short)
            drawn.append(_draw(comparison, setting, folder / f"compare_{name}.png"))
    return drawn


def _draw(comparison: Comparison, setting: Setting, path: Path) -> Path:
    metrics = comparison.headline
    others = [other for other in comparison.settings if other is not setting]
    by = others[0] if len(others) == 1 else None
    levels = by.levels if by else [None]
    known = [level for level in setting.levels if level != ABSENT]
    with panels(len(metrics)) as (whole, axes):
        for axis, metric in zip(axes, metrics, strict=True):
            for number, level in enumerate(levels):
                runs = [run for run in comparison.runs if by is None or run.settings[by.key] == level]
                at = [place for place, value in enumerate(known) if any(r.settings[setting.key] == value for r in runs)]
                points = [_mean([r for r in runs if r.settings[setting.key] == known[place]], metric) for place in at]
                beside = [place + APART * (number - (len(levels) - 1) / 2) for place in at]
                with_intervals(axis, beside, points, label=value_words(level), number=number)
            axis.set_title(f"{short_name(metric)}, %")
            axis.set_xlabel(setting_name(setting.key))
            axis.set_xticks(range(len(known)), [value_words(value) for value in known])
            axis.set_xlim(-0.4, len(known) - 0.6)
        if by:
            whole.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", title=setting_name(by.key))
        return save(whole, path)


def _mean(runs: list[ComparedRun], metric: str) -> Metric:
    """The only run's metric with its interval; of several runs the mean, without one."""
    found = [run.metrics[metric] for run in runs if metric in run.metrics]
    if len(found) == 1:
        return found[0]
    values = [float(one.value or 0.0) for one in found]
    return Metric(sum(values) / len(values) if values else None, None, None, len(values))


CURVES_FIRST = ("train/rewards/margins", "train/loss", "train/rewards/accuracies", "train/rewards/chosen")
NO_CURVES = ("epoch", "train/tokens")  # logged, and the same in every run
MOST_POINTS = 240  # of one curve
MOST_QUESTIONS = 150
MOST_CURVES = 60  # metrics whose curves go into the page


def write_page(comparison: Comparison, path: Path) -> Path:
    """Write the page. Images are small copies inside it; links lead to the runs' own reports."""
    asked = most_telling(questions_of(comparison.runs), MOST_QUESTIONS)
    metrics = [_metric(name) for name in comparison.metrics]
    runs = [_run(run, comparison, path.parent) for run in comparison.runs]
    data = {
        "runs": runs,
        "settings": [
            {"key": s.key, "short": s.short, "numeric": s.numeric, "levels": [_plain(level) for level in s.levels]}
            for s in comparison.settings
        ],
        "metrics": metrics,
        "curves": _curves(comparison.runs),
        **_answers(asked, comparison.runs),
    }
    text = page(
        "compare.html.j2",
        scripts=("dom.js", "charts.js", "compare.js"),
        data=data,
        title=_title(comparison),
        made=datetime.now().strftime("%Y-%m-%d %H:%M"),
        runs=runs,
        settings=comparison.settings,
        metrics=metrics,
        sentences=_sentences(comparison),
        notes=notes(comparison),
        has_pairs=any(run.pairs for run in comparison.runs),
        has_margin=any("margin" in run.training for run in comparison.runs),
        has_answers=bool(asked),
        has_curves=bool(data["curves"]),
    )
    atomic_write_text(path, text)
    return path


def _title(comparison: Comparison) -> str:
    keys = [setting.short for setting in comparison.settings]
    count = f"{len(comparison.runs)} runs" if len(comparison.runs) != 1 else "1 run"
    return f"{count}: {', '.join(keys[:3])}{' …' if len(keys) > 3 else ''}" if keys else count


def _sentences(comparison: Comparison) -> list[str]:
    """What the table says at a glance: the best run of each headline metric, and how clear that is."""
    said = []
    for name in comparison.headline:
        best = [run for run in comparison.runs if name in run.best]
        if not best:
            continue
        near = sum(name in run.near for run in comparison.runs)
        who = f"is {best[0].label}" if len(best) == 1 else f"are {len(best)} runs, {best[0].label} among them"
        rest = ""
        if near:
            rest = f"; {near} other{'s are' if near > 1 else ' is'} not clearly worse"
        said.append(f"{short_name(name)}: best {who}, {show(best[0].metrics[name])}{rest}.")
    return said


def _metric(name: str) -> dict[str, Any]:
    short = short_name(name)
    return {"name": name, "short": short, "label": whole_name(name), "direction": direction(name),
            "headline": name in HEADLINE, "minor": is_minor(name)}  # fmt: skip


def _run(run: ComparedRun, comparison: Comparison, beside: Path) -> dict[str, Any]:
    report = run.run.folder / "report.html"
    metrics = {}
    for name, metric in run.metrics.items():
        change = run.changes.get(name)
        metrics[name] = {
            "value": metric.value, "low": metric.low, "high": metric.high, "parts": show_parts(metric),
            "change": show(change, points=True) if change else "",
            "mark": "best" if name in run.best else "near" if name in run.near else "",
        }  # fmt: skip
    return {
        "name": run.name,
        "label": run.label,
        "link": quote(os.path.relpath(report.resolve(), beside.resolve())) if report.is_file() else "",
        "problem": run.run.problem,
        "settings": {setting.key: _plain(run.settings[setting.key]) for setting in comparison.settings},
        "words": {setting.key: value_words(run.settings[setting.key]) for setting in comparison.settings},
        "metrics": metrics,
        "pairs": run.pairs[0] if run.pairs else None,
        "dropped": run.pairs[1] if run.pairs else None,
        "margin": run.training.get("margin"),
        "seconds": run.run.results.get("seconds"),
    }


def _plain(value: object) -> Any:
    return None if value == ABSENT else value


def _curves(runs: Sequence[ComparedRun]) -> list[dict[str, Any]]:
    """Every logged number over steps, metric by metric: the training curves first. Stages of one run follow each other."""
    found: dict[str, list[dict[str, Any]]] = {}
    for number, run in enumerate(runs):
        for stage, rows in run.run.curves.items():
            for name in dict.fromkeys(key for row in rows for key in row):
                if name == "step" or name in NO_CURVES:
                    continue
                steps, values = curve(rows, name)
                if len(steps) > 1:
                    line = {"run": number, "stage": stage, "x": _thin(steps), "y": _thin(values)}
                    found.setdefault(name, []).append(line)
    first = [name for name in CURVES_FIRST if name in found]
    names = [*first, *sorted(name for name in found if name not in first)][:MOST_CURVES]
    return [{"name": name, "lines": found[name]} for name in names]


def _thin(points: Sequence[float]) -> list[float]:
    """At most MOST_POINTS of them, first and last kept, with six digits."""
    count = len(points)
    kept = (
        points if count <= MOST_POINTS else [points[i * (count - 1) // (MOST_POINTS - 1)] for i in range(MOST_POINTS)]
    )
    return [float(f"{point:.6g}") for point in kept]


def _answers(asked: Sequence[Asked], runs: Sequence[ComparedRun]) -> dict[str, Any]:
    """Questions with everyone's answers, and the pictures they are about, each once."""
    known: dict[str, Subject] = {}
    for run in runs:
        if any(question.item.sample_id not in known for question in asked):
            known = {**evaluation_subjects(run.run.config), **known} if asked else {}
    uris: dict[str, int] = {}
    questions = []
    for question in asked:
        uri = _picture(known.get(question.item.sample_id))
        questions.append({**as_data(question), "image": uris.setdefault(uri, len(uris)) if uri else None})
    return {"answers": questions, "images": list(uris)}


def _picture(subject: Subject | None) -> str:
    try:
        return data_uri(subject.image.load(), side=160) if subject is not None else ""
    except BadImage:
        return ""
