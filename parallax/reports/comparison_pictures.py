"""A comparison as pictures for documents: each headline metric against each numeric setting, in the house style."""

from __future__ import annotations

from pathlib import Path

from parallax.evaluation.ratio import Metric
from parallax.reports.comparison_numbers import ComparedRun, Comparison
from parallax.reports.method_words import setting_name
from parallax.reports.metric_names import short_name
from parallax.reports.plots import panels, save, with_intervals
from parallax.reports.what_differs import ABSENT, Setting, value_words

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
