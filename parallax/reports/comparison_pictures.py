"""A comparison as pictures for documents: each headline metric against each numeric setting, in the house style."""

from __future__ import annotations

from pathlib import Path

from parallax.evaluation.ratio import Metric
from parallax.reports.comparison_numbers import ComparedRun, Comparison
from parallax.reports.metric_names import short_name
from parallax.reports.plots import figure, save, with_intervals
from parallax.reports.what_differs import ABSENT, Setting, value_words


def draw_pictures(comparison: Comparison, folder: Path) -> list[Path]:
    """Write `compare_<setting>.png` for every numeric setting with two values or more: one panel for each headline metric.

    With two settings there is a line for each value of the other one; with more, runs of one value are averaged.
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
    known = sorted({run.settings[setting.key] for run in comparison.runs} - {ABSENT})
    apart = 0.012 * (known[-1] - known[0])  # between points of one place
    with figure(ncols=len(metrics), figsize=(3.3 * len(metrics) + 0.6, 3.2), squeeze=False) as (whole, axes):
        for axis, metric in zip(axes[0], metrics, strict=True):
            for colour, level in enumerate(levels):
                runs = [run for run in comparison.runs if by is None or run.settings[by.key] == level]
                places = sorted({run.settings[setting.key] for run in runs} - {ABSENT})
                points = [_mean([run for run in runs if run.settings[setting.key] == at], metric) for at in places]
                label = f"{by.short}={value_words(level)}" if by else None
                shift = apart * (colour - (len(levels) - 1) / 2)
                with_intervals(axis, places, points, label=label, colour=colour, shift=shift)
            axis.set_title(short_name(metric))
            axis.set_xlabel(setting.short)
        axes[0][0].set_ylabel("per cent")
        if by:
            axes[0][-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
        return save(whole, path)


def _mean(runs: list[ComparedRun], metric: str) -> Metric:
    """The only run's metric with its interval; of several runs the mean, without one."""
    found = [run.metrics[metric] for run in runs if metric in run.metrics]
    if len(found) == 1:
        return found[0]
    values = [float(one.value or 0.0) for one in found]
    return Metric(sum(values) / len(values) if values else None, None, None, len(values))
