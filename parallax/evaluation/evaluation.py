"""The outcome of an evaluation: metrics with intervals, and every answer behind them. Saved as JSON or Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from parallax.evaluation.ratio import Metric, bootstrap, paired_difference
from parallax.records.atomic import atomic_file, atomic_write_text, finite

FORMAT = 1  # of the saved files; raised when they change


@dataclass(frozen=True, slots=True)
class EvaluationItem:
    """One question, the answer given, and what it adds to each metric."""

    suite: str
    sample_id: str
    group: str  # the image; items of one group are resampled together
    kind: str
    question: str
    truth: str
    answer: str
    finished: bool  # False: the answer was cut by the token limit
    scores: Mapping[str, tuple[float, float]]  # metric -> (numerator, denominator)

    @property
    def key(self) -> tuple[str, str]:
        """What pairs an item with the same question of another evaluation."""
        return self.suite, self.sample_id


@dataclass(slots=True)
class Evaluation:
    """All metrics of one policy. `meta` says what was evaluated: policy, view, decoding, seconds, reused, bootstrap."""

    metrics: dict[str, Metric]
    items: list[EvaluationItem]
    meta: dict[str, Any] = field(default_factory=dict)
    skipped: list[dict[str, str]] = field(default_factory=list)  # suite, sample_id, reason

    @classmethod
    def from_items(
        cls,
        items: Sequence[EvaluationItem],
        *,
        bootstrap_draws: int = 1000,
        seed: int = 0,
        meta: Mapping[str, Any] | None = None,
        skipped: Iterable[dict[str, str]] = (),
    ) -> Evaluation:
        """Compute every metric that any item contributes to, in order of appearance."""
        metrics = {}
        for name in dict.fromkeys(name for item in items for name in item.scores):
            above, below, groups = _columns([item for item in items if name in item.scores], name)
            metrics[name] = bootstrap(above, below, groups, resamples=bootstrap_draws, seed=seed)
        settings = {"bootstrap": bootstrap_draws, "seed": seed}
        return cls(metrics, list(items), {**settings, **(meta or {})}, list(skipped))

    def save(self, path: Path | str) -> Path:
        """Write `.json` (everything) or `.parquet` (one row per item, for pandas). The file is whole or absent."""
        path = Path(path)
        if path.suffix == ".parquet":
            with atomic_file(path) as temporary:
                self.to_frame().to_parquet(temporary, index=False)
        elif path.suffix == ".json":
            atomic_write_text(
                path, json.dumps(finite(self.to_dict()), ensure_ascii=False, allow_nan=False, indent=1) + "\n"
            )
        else:
            raise ValueError(f"an evaluation is saved as .json or .parquet, not as {path.name!r}")
        return path

    @classmethod
    def load(cls, path: Path | str) -> Evaluation:
        """Read a `.json` file written by `save`."""
        data = json.loads(Path(path).read_text("utf-8"))
        if data.get("format") != FORMAT:
            raise ValueError(
                f"{path} is not an evaluation of format {FORMAT} (it says {data.get('format')!r}); evaluate again"
            )
        items = [
            EvaluationItem(**{**item, "scores": {name: (a, b) for name, (a, b) in item["scores"].items()}})
            for item in data["items"]
        ]
        metrics = {name: Metric(**metric) for name, metric in data["metrics"].items()}
        return cls(metrics, items, data["meta"], data["skipped"])

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "meta": self.meta,
            "metrics": {name: metric.to_dict() for name, metric in self.metrics.items()},
            "skipped": self.skipped,
            "items": [asdict(item) for item in self.items],
        }

    def to_frame(self) -> Any:
        """One row per item as a pandas DataFrame; each metric as `<metric>/numerator` and `<metric>/denominator`."""
        import pandas as pd

        rows = []
        for item in self.items:
            row = asdict(item)
            for name, (above, below) in row.pop("scores").items():
                row[f"{name}/numerator"], row[f"{name}/denominator"] = float(above), float(below)
            rows.append(row)
        return pd.DataFrame(rows)


def difference(before: Evaluation, after: Evaluation, *, relative: bool = False) -> dict[str, Metric]:
    """`after − before` of every metric both have, over the questions both answered (paired bootstrap).

    Args:
        relative: as a share of the value before.
    """
    draws, seed = int(before.meta.get("bootstrap", 1000)), int(before.meta.get("seed", 0))
    first, second = {item.key: item for item in before.items}, {item.key: item for item in after.items}
    shared = [key for key in first if key in second]
    changes = {}
    for name in before.metrics:
        keys = [key for key in shared if name in first[key].scores and name in second[key].scores]
        if name not in after.metrics or not keys:
            continue
        above, below, groups = _columns([first[key] for key in keys], name)
        then = _columns([second[key] for key in keys], name)[:2]
        changes[name] = paired_difference((above, below), then, groups, relative=relative, resamples=draws, seed=seed)
    return changes


def _columns(items: Sequence[EvaluationItem], metric: str) -> tuple[list[float], list[float], list[str]]:
    """Numerators, denominators and groups of one metric, each of shape (items,)."""
    pairs = [item.scores[metric] for item in items]
    return [a for a, _ in pairs], [b for _, b in pairs], [item.group for item in items]
