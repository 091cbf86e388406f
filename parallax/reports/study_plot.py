"""The picture of a study: what each arm changed, with its interval, beside its reward margin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from parallax.reports.results import direction

BETTER, WORSE, OPEN = "#2f9e6e", "#d9622b", "#8a8f98"


def draw_study(summary: Mapping[str, Any], path: Path) -> bool:
    """A row per arm and a panel per metric; filled where the interval excludes zero. False when there is nothing to draw."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    first = str(summary["metric"])
    measured = [name for name in (first, "recall", "accuracy", "pope_accuracy") if _has(summary, name)]
    metrics = list(dict.fromkeys(measured))
    arms = {name: arm for name, arm in summary["arms"].items() if first in arm["effects"]}
    if not arms:
        return False
    places = np.arange(len(arms))[::-1]
    with pyplot.style.context("default"):
        figure, axes = pyplot.subplots(
            1, len(metrics) + 1, figsize=(2.6 * (len(metrics) + 1) + 1.2, 0.36 * len(arms) + 1.5), sharey=True
        )
        for axis, metric in zip(axes, metrics, strict=False):
            relative = metric == first
            for place, arm in zip(places, arms.values(), strict=True):
                if metric in arm["effects"]:
                    _effect(axis, place, arm["effects"][metric], relative, direction(metric))
            axis.axvline(0, color="#444", linewidth=0.8)
            axis.set_title(f"{metric}, {'%, relative' if relative else 'points'}", loc="left", fontsize=9)
            axis.grid(axis="x", color="#e3e5e9")
            axis.set_axisbelow(True)
        axes[0].set_yticks(places, list(arms))
        axes[0].set_ylim(-0.6, len(arms) - 0.4)
        axes[-1].barh(places, [arm["training"]["margin"] for arm in arms.values()], color="#3b6fd4", height=0.5)
        axes[-1].set_title("late reward margin", loc="left", fontsize=9)
        for axis in axes:
            axis.spines[["top", "right", "left"]].set_visible(False)
            axis.tick_params(axis="y", length=0)
        figure.suptitle(f"{summary['title']}: change by tuning, 95 % intervals", x=0.01, ha="left", fontsize=10)
        figure.tight_layout()
        figure.savefig(path, dpi=130)
        pyplot.close(figure)
    return True


def _has(summary: Mapping[str, Any], metric: str) -> bool:
    return any(metric in arm["effects"] for arm in summary["arms"].values())


def _effect(axis: Any, place: float, effect: Mapping[str, Any], relative: bool, sense: int) -> None:
    kind = "relative" if relative else "change"
    value, low, high = (100 * effect[key] for key in (kind, f"{kind}_low", f"{kind}_high"))
    clear = low * high > 0
    colour = OPEN if not clear else BETTER if value * sense > 0 else WORSE
    axis.plot([low, high], [place, place], color=colour, linewidth=2)
    axis.plot(value, place, "o", color=colour, markerfacecolor=colour if clear else "white", markersize=5)
