"""One matplotlib style for everything the project draws: reports, documents, W&B."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parallax.evaluation.ratio import Metric
from parallax.reports.metric_names import direction, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#3b6fd4", "#d9622b", "#2f9e6e", "#9a5bc9", "#8a8f98")  # told apart by colour-blind readers too
MARKERS, DASHES = (
    ("o", "s", "^", "D", "v"),
    ("-", "--", ":", "-."),
)  # and where there is no colour, or more lines than colours
BETTER, WORSE, OPEN = (
    PALETTE[2],
    PALETTE[1],
    PALETTE[4],
)  # an interval on the good side of zero, on the bad side, on both
_STYLE: dict[str, Any] = {
    "figure.figsize": (6.0, 3.6),
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "savefig.bbox": "tight",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e5e9",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


@contextmanager
def figure(**options: Any) -> Iterator[tuple[Figure, Any]]:
    """A figure and its axes in the house style; drawn without a display and closed at the end.

    >>> with figure() as (fig, axes): axes.plot(...); save(fig, "docs/images/margin.png")
    """
    import matplotlib

    matplotlib.use("Agg")
    from cycler import cycler
    from matplotlib import pyplot

    style: Any = {**_STYLE, "axes.prop_cycle": cycler(color=list(PALETTE))}
    with pyplot.rc_context(style):
        fig, axes = pyplot.subplots(layout="constrained", **options)
        try:
            yield fig, axes
        finally:
            pyplot.close(fig)


@contextmanager
def panels(count: int, across: int = 3, size: tuple[float, float] = (3.9, 3.1)) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of `count` panels, at most `across` in a row, each of `size` inches."""
    columns = min(across, count)
    rows = -(-count // columns)
    with figure(nrows=rows, ncols=columns, figsize=(size[0] * columns, size[1] * rows), squeeze=False) as (fig, grid):
        for unused in grid.flat[count:]:
            unused.axis("off")
        yield fig, list(grid.flat[:count])


def line_style(number: int) -> dict[str, Any]:
    """What tells the curve of this number from the others: colour and marker, then the dashes too."""
    place, again = number % len(PALETTE), number // len(PALETTE)
    return {"color": PALETTE[place], "marker": MARKERS[place], "linestyle": DASHES[again % len(DASHES)]}


def save(fig: Figure, path: Path | str) -> Path:
    """Write the figure; PNG and SVG files are the same bytes for the same figure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    dateless: Mapping[str, Any] = (
        {"metadata": {"Date": None}} if path.suffix == ".svg" else {"metadata": {"Software": None}}
    )
    fig.savefig(path, **(dateless if path.suffix in (".svg", ".png") else {}))
    return path


def with_intervals(
    axes: Axes, x: Sequence[float], metrics: Sequence[Metric], *, label: str | None = None, number: int = 0
) -> None:
    """Metrics in per cent against a swept parameter, their intervals as bars; `number` is the curve's."""
    known = [(at, metric, metric.value) for at, metric in zip(x, metrics, strict=True) if metric.value is not None]
    places = [at for at, _, _ in known]
    ends = [(value if end is None else end for end in (metric.low, metric.high)) for _, metric, value in known]
    style = line_style(number)
    axes.plot(places, [100 * value for _, _, value in known], label=label, **style)
    for place, (low, high) in zip(places, ends, strict=True):
        axes.vlines(place, 100 * low, 100 * high, color=style["color"], alpha=0.55, linewidth=1.3)


BESIDE = ("recall", "accuracy", "pope_accuracy")  # shown after the study's own metric


def draw_study(summary: Mapping[str, Any], path: Path) -> bool:
    """A row per arm and a panel per metric; filled where the interval excludes zero. False when there is nothing to draw."""
    first = str(summary["metric"])
    metrics = [
        name
        for name in dict.fromkeys((first, *BESIDE))
        if any(name in arm["effects"] for arm in summary["arms"].values())
    ]
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


def _effect(axis: Axes, place: float, effect: Mapping[str, Any], relative: bool, sense: int) -> None:
    kind = "relative" if relative else "change"
    value, low, high = (100 * effect[key] for key in (kind, f"{kind}_low", f"{kind}_high"))
    clear = low * high > 0
    colour = OPEN if not clear else BETTER if value * sense > 0 else WORSE
    axis.plot([low, high], [place, place], color=colour, linewidth=2)
    axis.plot(value, place, "o", color=colour, markerfacecolor=colour if clear else "white", markersize=5)
