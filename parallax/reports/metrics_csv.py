"""The curves of a run as `metrics.csv`: a row per logged step, columns as they come; crash and resume continue it."""

from __future__ import annotations

import csv
import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from parallax.records.atomic import atomic_file, flush
from parallax.reports.staged_logger import StagedLogger

__all__ = ["MetricsCsv", "curve", "read_metrics"]


class MetricsCsv(StagedLogger):
    """A Lightning logger that appends to `<folder>/metrics.csv`.

    A run that resumes at step s logs steps that the crashed run may have logged already: rows of the same stage from its first
    step on are replaced, so that the file reads as if nothing had happened.
    """

    def __init__(self, folder: Path | str) -> None:
        super().__init__()
        self.path: Path = Path(folder) / "metrics.csv"
        self._columns: list[str] = ["step"]
        self._rows: list[dict[str, str]] = []
        self._started = False
        self._stage: str | None = None
        self._replacing = True  # the next row may be there already

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The configuration is in config.yaml; nothing to do."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if not self._started:
            self._rows = read_metrics(self.path)
            self._columns = list(dict.fromkeys([*self._columns, *(name for row in self._rows for name in row)]))
        summing_up = step is None  # numbers of the whole run stand beside its last step
        again = not summing_up and self._replacing
        step = int(step if step is not None else (self._rows[-1]["step"] if self._rows else 0))
        if again:
            self._rows = [row for row in self._rows if row.get("stage") != self._stage or int(row["step"]) < step]
            self._replacing = False
        values = {name: repr(float(value)) for name, value in metrics.items()}
        new = [name for name in values if name not in self._columns]
        last = self._rows[-1] if self._rows else {}
        same_step = bool(last) and (summing_up or (last["step"], last.get("stage")) == (str(step), self._stage))
        if same_step:
            self._rows[-1].update(values)
        else:
            self._rows.append({"step": str(step), **({"stage": self._stage} if self._stage else {}), **values})
        self._columns += new
        if new or same_step or again or not self._started:
            self._rewrite()
        else:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns, restval="").writerow(self._rows[-1])
        self._started = True

    def begin(self, stage: str) -> None:
        """What is logged from now on belongs to this stage of the run, whose steps count from 0."""
        self._stage, self._replacing = stage, True
        if "stage" not in self._columns:
            self._columns.insert(1, "stage")

    def save(self) -> None:
        """Bring what was logged to the disk itself, so that a checkpoint never knows of steps the curves do not."""
        if self._started:
            flush(self.path)

    def _rewrite(self) -> None:
        with atomic_file(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(self._rows)


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
