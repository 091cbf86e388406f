"""Before, after and the difference: the table on the screen and `results.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parallax.evaluation.evaluation import Evaluation, difference
from parallax.evaluation.ratio import Metric
from parallax.records.atomic import atomic_write_text, finite
from parallax.records.plain_text import terminal
from parallax.reports import run_log
from parallax.reports.metric_names import direction, short_name

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

HEADLINE = ("chair_i", "chair_s", "recall", "accuracy", "pope_accuracy")
_MINOR = re.compile(r"pope_(?!(?:accuracy|f1|yes_ratio|parse_failures)$)(?!\w+_accuracy$)\w+$")
MOST_SHOWN = 8  # metrics on the screen where none is a headline
NO_METRIC = Metric(None, None, None, 0)


def is_minor(metric: str) -> bool:
    """Metrics that are kept and listed but not put before everybody's eyes: precision and the like of single splits."""
    return ":" in metric or bool(_MINOR.search(metric))


def verdict(metric: str, change: Metric) -> str:
    """`better`, `worse`, or `unclear` when the interval of the change holds zero (or there is none)."""
    sign = direction(metric)
    if change.value is None or not change.excludes_zero or not sign:
        return "unclear"
    return "better" if change.value * sign > 0 else "worse"


def make_results(
    before: Evaluation | None,
    after: Evaluation | None,
    *,
    pairs: Mapping[str, Any] | None = None,
    method: str = "",
    seed: int = 0,
    steps: int = 0,
    seconds: float = 0.0,
    **more: Any,
) -> dict[str, Any]:
    """The content of `results.json`. The headline metrics are always there; what was not measured has the value null.

    Args:
        before, after: either may be missing, for runs that evaluate only once.
        pairs: `built`, `reused`, `kept` and `dropped` (reason → count) of the run's preference pairs; `dialogues` of its
            supervised stages.
        method, seed, steps (optimiser steps), seconds: of the run.
        more: further plain data, added at the top level.
    """
    side = after or before
    tables = (side.meta.get("tables") or {}) if side is not None else {}
    changes = difference(before, after) if before and after else {}
    relative = difference(before, after, relative=True) if before and after else {}
    counts = {"built": 0, "reused": 0, "kept": 0, "dropped": {}, **(pairs or {})}
    counts["dropped"] = dict(counts["dropped"])
    return {
        "method": method,
        "seed": seed,
        "steps": steps,
        "seconds": round(seconds, 3),
        "before": _side(before.metrics if before else {}),
        "after": _side(after.metrics if after else {}),
        "difference": _side(changes),
        "relative_change": _side(relative),
        "pairs": counts,
        **({"tables": tables} if tables else {}),
        **more,
    }


def write_results(path: Path | str, results: Mapping[str, Any]) -> Path:
    """Write `results.json`, whole or not at all."""
    atomic_write_text(path, json.dumps(finite(results), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return Path(path)


def flat_metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """Numbers for loggers: `eval/<metric>` after, `eval_before/<metric>`, `eval_change/<metric>`, `pairs/<count>`, `margin`.

    `margin` is the mean reward margin over the last quarter of the steps of the last stage that has one.
    """
    flat = {}
    for side, prefix in (("after", "eval"), ("before", "eval_before"), ("difference", "eval_change")):
        for name, metric in results.get(side, {}).items():
            if metric["value"] is not None:
                flat[f"{prefix}/{name}"] = float(metric["value"])
    for name, count in results.get("pairs", {}).items():
        if isinstance(count, int | float) and not isinstance(count, bool):
            flat[f"pairs/{name}"] = float(count)
    for stage in results.get("stages", {}).values():
        margin = stage.get("late_margin")
        if margin is not None:
            flat["margin"] = float(margin)
    return flat


def results_table(results: Mapping[str, Any], names: Sequence[str], *, width: int = 120) -> Table:
    """Before / after / difference as a rich table, in per cent and percentage points, with 95 % intervals.

    Args:
        names: the metrics, one row each.
        width: characters there are; below 105 only the difference keeps its interval.
    """
    from rich.table import Table
    from rich.text import Text

    sides = [
        side
        for side in ("before", "after", "difference")
        if any(m["value"] is not None for m in results[side].values())
    ]
    table = Table(title="Evaluation, 95 % intervals", title_justify="left", header_style="bold", pad_edge=False)
    table.add_column("")
    for side in sides:
        table.add_column("value" if len(sides) == 1 else side, justify="right", no_wrap=True)
    for name in names:
        cells = [Text(short_name(name), style="bold")]
        for side in sides:
            metric = metric_of(results[side].get(name))
            whole = width >= 105 or side == "difference" or len(sides) == 1
            change = side == "difference"
            text = show(metric, points=change, name=name) if whole else show_parts(metric, name=name)[0]
            cell = Text(text)
            if side == "difference":
                colour = {"better": "green", "worse": "red", "unclear": "dim"}[verdict(name, metric)]
                cell = Text(f"{cell.plain} {arrow(name, metric)}", style=colour)
            cells.append(cell)
        table.add_row(*cells)
    return table


def print_results(results: Mapping[str, Any], console: Console | None = None) -> None:
    """A short table of what was measured and a line about the pairs, on the screen; nothing in a multirun's job."""

    if not run_log.is_shown():
        return
    console = console or terminal()
    measured = metric_order(results)
    names = headlines(measured)
    if names:
        console.print(results_table(results, names, width=console.width))
    elif results.get("steps"):
        console.print(
            f"{results['steps']} optimiser steps in {results['seconds']:.0f} s; nothing was measured.", highlight=False
        )
    for suite, table in (results.get("tables") or {}).items():
        console.print(f"{suite}: objects are found with {table} of synonyms.", highlight=False, markup=False)
    if more := len(measured) - len(names):
        console.print(f"{more} more numbers are in the report.", highlight=False)
    pairs = results.get("pairs") or {}
    if pairs.get("kept") or pairs.get("dialogues"):
        dropped = pairs.get("dropped") or {}
        why = f" ({', '.join(f'{count} {reason}' for reason, count in dropped.items())})" if dropped else ""
        learned = f"dialogues learned {pairs['dialogues']}; " if pairs.get("dialogues") else ""
        console.print(
            f"Pairs: {pairs['kept']} kept, {sum(dropped.values())} dropped{why}; {learned}answers generated {pairs['built']}, "
            f"reused {pairs['reused']}",
            highlight=False,
            markup=False,
        )


def metric_order(results: Mapping[str, Any]) -> list[str]:
    """Headline metrics first, the others under the headline they belong to, in the order they were measured."""
    names = list(dict.fromkeys(name for side in ("before", "after") for name in results[side]))
    measured = [n for n in names if any(metric_of(results[s].get(n)).value is not None for s in ("before", "after"))]
    ordered = []
    for headline in HEADLINE:
        if headline in measured:
            family = headline.split("_")[0] if headline == "pope_accuracy" else headline
            ordered += [
                headline,
                *(n for n in measured if n not in HEADLINE and n.startswith((f"{family}/", f"{family}_"))),
            ]
    return list(dict.fromkeys([*ordered, *measured]))


def headlines(measured: Sequence[str]) -> list[str]:
    """The few metrics that a short table shows: the headline metrics, or where there are none the first that are whole."""
    names = [name for name in measured if name in HEADLINE]
    return (
        names
        or [name for name in measured if "/" not in name and not is_minor(name)][:MOST_SHOWN]
        or list(measured[:MOST_SHOWN])
    )


def metric_of(plain: Mapping[str, Any] | None) -> Metric:
    """A metric as it stands in `results.json`, or an empty one."""
    return Metric(plain["value"], plain["low"], plain["high"], plain.get("n", 0)) if plain else NO_METRIC


def is_share(metric: str) -> bool:
    """Whether a metric is a share, shown in per cent. `…_score` are points of their own (MME, ratings), `…_nats` log-probs."""
    return not metric.split(":")[0].endswith(("_score", "_nats"))


def show(metric: Metric, *, points: bool = False, name: str = "") -> str:
    """`12.3 % [11.0, 13.6]`, or `−1.2 pp [−2.0, −0.4]` with `points`; a dash when there is no value.

    `name` is the metric's: one that is no share is shown as a plain number.
    """
    return " ".join(part for part in show_parts(metric, points=points, name=name) if part)


def show_parts(metric: Metric, *, points: bool = False, name: str = "") -> tuple[str, str]:
    """The value and the interval apart; the interval is empty when there is none."""
    if metric.value is None:
        return "–", ""
    if not is_share(name):
        sign = "+" if points else ""
        ends = [] if metric.low is None or metric.high is None else [metric.low, metric.high]
        value, *interval = (f"{number:{sign}.2f}".replace("-", "−") for number in (metric.value, *ends))
        return value, f"[{', '.join(interval)}]" if interval else ""
    value = f"{_number(metric.value, points)} {'pp' if points else '%'}"
    if metric.low is None or metric.high is None:
        return value, ""
    return value, f"[{_number(metric.low, points)}, {_number(metric.high, points)}]"


def _number(share: float, signed: bool) -> str:
    """A share in per cent with one decimal and a true minus sign; never `-0.0`."""
    rounded = round(100 * share, 1) + 0.0
    return f"{rounded:{'+' if signed and rounded else ''}.1f}".replace("-", "−")


def arrow(metric: str, change: Metric) -> str:
    """The way the number went, when that is clear: ▲ or ▼. Colour says whether it is good; `·` is no clear change."""
    if verdict(metric, change) == "unclear" or change.value is None:
        return "·"
    return ("▲" if change.value > 0 else "▼") + (" better" if verdict(metric, change) == "better" else " worse")


def _side(metrics: Mapping[str, Metric]) -> dict[str, Any]:
    names = [*HEADLINE, *(name for name in metrics if name not in HEADLINE)]
    return {name: metrics.get(name, NO_METRIC).to_dict() for name in names}
