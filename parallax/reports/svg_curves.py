"""Curves for the report as SVG that follows the page's light or dark colours. No script, no file beside the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 460, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 14, 34
MAX_POINTS = 400  # per line; longer curves are thinned


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: a legend, steps and values of equal length, and a colour, 1 to 4, of the page's palette."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    colour: int = 1


def curves(title: str, lines: Sequence[Line], *, zero: bool = False) -> Markup | None:
    """A small line chart, or None when no line has a finite point.

    Args:
        title: said to screen readers together with first and last values.
        zero: draw the zero line and keep it in view.
    """
    drawn = [line for line in map(_finite, lines) if line.steps]
    if not drawn:
        return None
    xs = [x for line in drawn for x in line.steps]
    ys = [y for line in drawn for y in line.values] + ([0.0] if zero else [])
    ticks = nice_ticks(min(ys), max(ys))
    low, high = min(ticks[0], min(ys)), max(ticks[-1], max(ys))
    first, last = min(xs), max(xs)

    def x_of(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * ((step - first) / (last - first) if last > first else 0.5)

    def y_of(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low))

    parts = []
    for tick in ticks:
        y = y_of(tick)
        kind = "zero" if zero and tick == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(tick)}</text>')
    for step, anchor in ((first, "start"), (last, "end")):
        parts.append(
            f'<text class="tick" x="{x_of(step):.1f}" y="{HEIGHT - 10}" text-anchor="{anchor}">{_short(step)}</text>'
        )
    parts.append(
        f'<text class="tick" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">step</text>'
    )
    for line in drawn:
        points = [f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in zip(line.steps, line.values, strict=True)]
        if len(points) > 1:
            parts.append(f'<polyline class="curve c{line.colour}" points="{" ".join(points)}"/>')
        end_x, end_y = points[-1].split(",")
        parts.append(f'<circle class="dot c{line.colour}" cx="{end_x}" cy="{end_y}" r="3"/>')
    told = "; ".join(f"{line.label} from {_short(line.values[0])} to {_short(line.values[-1])}" for line in drawn)
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}: {escape(told)}">'
    return Markup(head + "".join(parts) + "</svg>")


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers that cover low to high."""
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    start, stop = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 12) + 0.0 for i in range(start, stop + 1)]


def _finite(line: Line) -> Line:
    points = [
        (float(x), float(y))
        for x, y in zip(line.steps, line.values, strict=True)
        if math.isfinite(x) and math.isfinite(y)
    ]
    if len(points) > MAX_POINTS:
        points = [points[i * (len(points) - 1) // (MAX_POINTS - 1)] for i in range(MAX_POINTS)]
    return Line(line.label, [x for x, _ in points], [y for _, y in points], line.colour)


def _short(value: float) -> str:
    """A number for an axis: `0.25`, `12`, `1.5k`, `2e-06`."""
    if value and (abs(value) >= 1e6 or abs(value) < 1e-3):
        return f"{value:.2g}"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.4g}".replace("-", "−")
