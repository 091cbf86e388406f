"""One matplotlib style for everything the project draws: reports, documents, W&B."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parallax.evaluation.ratio import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#3b6fd4", "#d9622b", "#2f9e6e", "#9a5bc9", "#8a8f98")  # told apart by colour-blind readers too
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
    axes: Axes,
    x: Sequence[float],
    metrics: Sequence[Metric],
    *,
    label: str | None = None,
    colour: int = 0,
    scale: float = 100.0,
    shift: float = 0.0,
) -> None:
    """Metrics against a swept parameter, their intervals as bars. Values are multiplied by `scale` (per cent).

    `shift` moves the points along x, so that bars of several lines stand beside each other.
    """
    known = [(at, metric) for at, metric in zip(x, metrics, strict=True) if metric.value is not None]
    places = [at + shift for at, _ in known]
    values = [scale * (metric.value or 0.0) for _, metric in known]
    lows = [scale * (metric.low if metric.low is not None else metric.value or 0.0) for _, metric in known]
    highs = [scale * (metric.high if metric.high is not None else metric.value or 0.0) for _, metric in known]
    shade = PALETTE[colour % len(PALETTE)]
    axes.plot(places, values, marker="o", color=shade, label=label)
    axes.vlines(places, lows, highs, color=shade, alpha=0.55, linewidth=1.3)
