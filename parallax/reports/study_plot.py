"""The picture of a study: what each arm changed, with its interval, beside its reward margin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parallax.reports.metric_names import direction, short_name
from parallax.reports.plots import BETTER, OPEN, PALETTE, WORSE, figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BESIDE = ("recall", "accuracy", "pope_accuracy")  # shown after the study's own metric


def draw_study(summary: Mapping[str, Any], path: Path) -> bool:
    """A row per arm and a panel per metric; filled where the interval excludes zero. False when there is nothing to draw."""
    first = str(summary["metric"])
    metrics = [name for name in dict.fromkeys((first, *BESIDE)) if _has(summary, name)]
    arms = {name: arm for name, arm in summary["arms"].items() if first in arm["effects"]}
    if not arms:
        return False
    places = np.arange(len(arms))[::-1]
    panels, inches = len(metrics) + 1, (2.5 * (len(metrics) + 1) + 1.2, 0.36 * len(arms) + 1.6)
    with figure(ncols=panels, figsize=inches, sharey=True, squeeze=False) as (whole, grid):
        axes = grid[0]
        for axis, metric in zip(axes, metrics, strict=False):
            relative = metric == first
            for place, arm in zip(places, arms.values(), strict=True):
                if metric in arm["effects"]:
                    _effect(axis, place, arm["effects"][metric], relative, direction(metric))
            axis.axvline(0, color="#444", linewidth=0.8, zorder=1)
            axis.set_title(short_name(metric))
            axis.set_xlabel("relative change, %" if relative else "change, points")
        axes[-1].barh(places, [arm["training"]["margin"] for arm in arms.values()], color=PALETTE[0], height=0.5)
        axes[-1].set_title("Reward margin")
        axes[-1].set_xlabel("late in training")
        axes[0].set_yticks(places, list(arms))
        axes[0].set_ylim(-0.6, len(arms) - 0.4)
        for axis in axes:
            axis.spines["left"].set_visible(False)
            axis.tick_params(axis="y", length=0)
            axis.grid(visible=False, axis="y")
        whole.suptitle(f"{summary['title']}: change by tuning, 95 % intervals", x=0.01, ha="left")
        save(whole, path)
    return True


def _has(summary: Mapping[str, Any], metric: str) -> bool:
    return any(metric in arm["effects"] for arm in summary["arms"].values())


def _effect(axis: Axes, place: float, effect: Mapping[str, Any], relative: bool, sense: int) -> None:
    kind = "relative" if relative else "change"
    value, low, high = (100 * effect[key] for key in (kind, f"{kind}_low", f"{kind}_high"))
    clear = low * high > 0
    colour = OPEN if not clear else BETTER if value * sense > 0 else WORSE
    axis.plot([low, high], [place, place], color=colour, linewidth=2)
    axis.plot(value, place, "o", color=colour, markerfacecolor=colour if clear else "white", markersize=5)
