"""Reading the curves of a run back from its `metrics.csv`. Light: who only reads needs neither torch nor Lightning."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path


def read_metrics(path: Path | str) -> list[dict[str, str]]:
    """The rows of a `metrics.csv`, empty cells left out. A torn last line (a crash while writing) is left out too."""
    path = Path(path)
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{name: cell for name, cell in row.items() if name and cell} for row in csv.DictReader(file)]
    return [row for row in rows if row.get("step", "").isdigit()]


def curve(rows: Sequence[Mapping[str, str]], metric: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric. Shape of both: (rows that have it,). Words that are no numbers are left out."""
    points = []
    for row in rows:
        try:
            points.append((int(row["step"]), float(row[metric])))
        except (KeyError, ValueError):
            continue
    return [step for step, _ in points], [value for _, value in points]


def late_mean(rows: Sequence[Mapping[str, str]], metric: str) -> float | None:
    """Mean of a metric over the last quarter of a fit's logged steps, steps that were left out aside; None where there are none.

    This is what is meant wherever a run has one margin: on the screen, in W&B's summary, in comparisons, studies and analyses.
    """
    _, values = curve(rows, metric)
    late = [value for value in values[-max(1, len(values) // 4) :] if math.isfinite(value)]
    return sum(late) / len(late) if late else None
