"""The outcome of a study: a JSON file, a Markdown table and a picture, from the run folders of its arms."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np

from parallax.evaluation.evaluation import Evaluation
from parallax.evaluation.over_seeds import Effect, effect_over_seeds
from parallax.records.atomic import atomic_write_text
from parallax.records.plain_text import code_span, say
from parallax.records.plain_text import markdown as text
from parallax.reports.metric_names import direction, short_name
from parallax.reports.metrics_csv import late_mean, read_metrics
from parallax.reports.plots import draw_study
from parallax.reports.results import HEADLINE, is_share
from parallax.reports.run_folder import by_number

log = logging.getLogger(__name__)

CURVES = {
    "margin": "train/rewards/margins",
    "chosen_reward": "train/rewards/chosen",
    "accuracy": "train/rewards/accuracies",
    "displacement": "train/likelihood_displacement",
}
LOOKS = (
    "image_use_nats",
    "chosen_nats",
)  # of evaluation=image_use; with them the displacement of likelihoods is shown too


def write_study(
    folder: Path,
    study: Mapping[str, Any],
    runs: Mapping[str, Sequence[Path]],
    failures: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Write <name>.json, <name>.md and <name>.png into `folder`; returns the content of the first.

    Args:
        study: the `study` group: title, metric, arms, seeds, document.
        runs: finished run folders of each arm.
        failures: why runs of an arm came to nothing, a sentence each.
    """
    summary: dict[str, Any] = {
        "title": study["title"],
        "command": study["command"],
        "metric": study["metric"],
        "seeds": list(study["seeds"]),
        "arms": {arm: _arm(study["arms"][arm], folders) for arm, folders in runs.items()},
        "failures": {arm: list(told) for arm, told in (failures or {}).items()},
    }
    atomic_write_text(folder / f"{study['name']}.json", json.dumps(summary, indent=2) + "\n")
    table = markdown(summary)
    atomic_write_text(folder / f"{study['name']}.md", table)
    picture = folder / f"{study['name']}.png"
    drawn = draw_study(summary, picture)
    if study.get("document"):
        put_into(Path(study["document"]), str(study["name"]), table, picture if drawn else None)
    say(table)
    log.info("study in %s", folder)
    return summary


def _arm(words: Sequence[str], folders: Sequence[Path]) -> dict[str, Any]:
    """Effects with intervals, means of the training curves over seeds, and pair counts of one arm."""
    if not folders:
        return {"overrides": list(words), "seeds": 0, "effects": {}, "training": {}, "pairs": {}}
    pairs_of_evaluations = [_evaluations(folder) for folder in folders]
    effects = {}
    for metric in (*HEADLINE, *LOOKS):
        sums = [(_sums(before, metric), _sums(after, metric)) for before, after in pairs_of_evaluations]
        if all(before and after for before, after in sums):
            effects[metric] = _effect(sums).to_json()
    results = [json.loads((folder / "results.json").read_text()) for folder in folders]
    training = {name: [_late_mean(folder, metric) for folder in folders] for name, metric in CURVES.items()}
    return {
        "overrides": list(words),
        "seeds": len(folders),
        "effects": effects,
        "training": {name: float(np.mean(values)) for name, values in training.items()},
        "pairs": {
            "kept": float(np.mean([r["pairs"]["kept"] for r in results])),
            "equal": float(np.mean([r["pairs"]["dropped"].get("equal", 0) for r in results])),
        },
        "seconds": float(np.mean([r["seconds"] for r in results])),
    }


def _effect(sums: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> Effect:
    """All runs are evaluated on the same groups of items; the first run's `before` is everybody's."""
    first = sums[0][0]
    groups = [group for group in first if all(group in before and group in after for before, after in sums)]

    def columns(values: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        pairs = np.array([values[group] for group in groups], dtype=np.float64)
        return pairs[:, 0], pairs[:, 1]

    return effect_over_seeds(columns(first), [columns(after) for _, after in sums])


def _sums(evaluation: Evaluation, metric: str) -> dict[str, tuple[float, float]]:
    """Numerator and denominator of a metric per group (image)."""
    sums: dict[str, tuple[float, float]] = {}
    for item in evaluation.items:
        if metric in item.scores:
            above, below = sums.get(item.group, (0.0, 0.0))
            sums[item.group] = (above + item.scores[metric][0], below + item.scores[metric][1])
    return sums


def _evaluations(folder: Path) -> tuple[Evaluation, Evaluation]:
    before, after = (sorted(folder.glob(f"stages/**/eval_{when}.json")) for when in ("before", "after"))
    return Evaluation.load(before[0]), Evaluation.load(after[-1])


def _late_mean(folder: Path, metric: str) -> float:
    """Mean over the last quarter of the steps of the last stage that has the metric; nan where none has it."""
    found = [late_mean(read_metrics(path), metric) for path in by_number(folder.glob("stages/**/metrics.csv"))]
    return next((value for value in reversed(found) if value is not None), float("nan"))


def markdown(summary: Mapping[str, Any]) -> str:
    """The table of a study, in percentages; relative changes with two-way 95 % intervals (scenes and seeds)."""
    shown = [
        name for name in (*HEADLINE, *LOOKS) if name != "chair_s" or summary["metric"] == name
    ]  # chair_i says as much
    metrics = [name for name in shown if any(name in arm["effects"] for arm in summary["arms"].values())]
    lines = [f"**{text(summary['title'])}** ({code_span(summary['command'])})", ""]
    late = {"margin": ""} | ({"displacement": "%"} if LOOKS[0] in metrics else {})
    heads = [
        "arm",
        "seeds",
        "pairs",
        *(f"{short_name(m)}: before → after, change" for m in metrics),
        *map(short_name, late),
    ]
    lines.append(f"| {' | '.join(heads)} |")
    lines.append("|---" * len(heads) + "|")
    for name, arm in summary["arms"].items():
        cells = [_cell(arm["effects"].get(metric), metric, metric == summary["metric"]) for metric in metrics]
        kept = f"{arm['pairs']['kept']:.0f}" if arm["pairs"] else "–"
        ends = [_late(arm["training"].get(curve, nan), unit) for curve, unit in late.items()]
        lines.append(f"| {' | '.join([text(name), str(arm['seeds']), kept, *cells, *ends])} |")
    for name, told in summary.get("failures", {}).items():
        counts = Counter(told)
        lines += [
            "",
            *(
                f"{code_span(name)}, {count} of {len(summary['seeds'])} seeds: {text(why)}"
                for why, count in counts.items()
            ),
        ]
    return "\n".join(lines) + "\n"


def _late(value: float, unit: str) -> str:
    return "–" if isnan(value) else f"{100 * value:.0f} %" if unit else f"{value:.2f}"


def _cell(effect: Mapping[str, Any] | None, metric: str, relative: bool) -> str:
    if effect is None:
        return "–"
    scale = 100 if is_share(metric) else 1
    sides = f"{scale * effect['before']:.2f} → {scale * effect['after']:.2f}"
    if not is_share(metric):
        low, high, value = effect["change_low"], effect["change_high"], effect["change"]
        text = f"{sides}, {value:+.2f} nats [{low:+.2f}, {high:+.2f}]"
        return f"**{text}**" if low * high > 0 and value * direction(metric) > 0 else text
    if relative:
        low, high, value, unit = effect["relative_low"], effect["relative_high"], effect["relative"], "%"
    else:
        low, high, value, unit = effect["change_low"], effect["change_high"], effect["change"], "pp"
    text = f"{sides}, {100 * value:+.1f} {unit} [{100 * low:+.1f}, {100 * high:+.1f}]"
    clear = low * high > 0
    better = clear and value * direction(metric) > 0
    return f"**{text}**" if better else text


def put_into(document: Path, name: str, table: str, picture: Path | None) -> None:
    """Replace what stands between `<!-- study <name> -->` and `<!-- end <name> -->`.

    Args:
        document: a Markdown file.
        table: Markdown.
        picture: is copied to `images/` beside the document and shown below the table; None shows none.

    Raises:
        ValueError: the document has no such marks.
    """
    begin, end = f"<!-- study {name} -->", f"<!-- end {name} -->"
    text = document.read_text("utf-8")
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(
            f"{document} has no place for the study {name}; put the lines {begin} and {end} where it belongs"
        )
    shown = ""
    if picture is not None:
        target = document.parent / "images" / f"{name}.png"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(picture, target)
        shown = f"\n![{name}](images/{target.name})\n"
    before, rest = text.split(begin)
    atomic_write_text(document, f"{before}{begin}\n{table}{shown}{end}{rest.split(end)[1]}")
