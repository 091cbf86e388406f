"""A comparison as a table on the screen and as a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from parallax.records.atomic import atomic_file
from parallax.records.plain_text import printable, spreadsheet_cell, terminal
from parallax.reports.comparison_numbers import ComparedRun, Comparison
from parallax.reports.metric_names import short_name
from parallax.reports.results import show_parts
from parallax.reports.what_differs import ABSENT, Setting, value_words

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
MOST_ROWS = 60  # on the screen; the CSV and the page have all
INTERVAL_WIDTH = 13  # characters that an interval adds to a column
WORDS = 24  # most characters of a setting's value


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """The table, then what the marks mean, the settings that changed together, and the runs without results."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    console = console or terminal()
    finished = [run for run in comparison.runs if not run.run.problem]
    longest = max((len(run.name) for run in finished), default=3)
    name_width = min(longest, max(20, console.width // 3))
    room = console.width - name_width - 1
    metrics = _that_fit(comparison.headline, room, _width)
    room -= sum(map(_width, metrics))
    settings = _that_fit(comparison.settings, room, _setting_width, least=0)
    room -= sum(map(_setting_width, settings))
    counts = [label for label in ("pairs", "margin") if any(_count(run, label) for run in finished)]
    counts = _that_fit(counts, room, lambda label: 9, least=0)
    room -= 9 * len(counts)
    whole = set(metrics[: max(0, room // INTERVAL_WIDTH)])  # the metrics whose intervals fit in
    table = Table(
        title=Text(printable(_title(comparison))), title_justify="left", header_style="bold", box=SIMPLE, pad_edge=False
    )
    table.add_column("run", no_wrap=True, min_width=name_width)
    for name in metrics:
        table.add_column(Text(printable(short_name(name))), justify="right", no_wrap=True)
    for setting in settings:
        table.add_column(
            Text(printable(setting.short)),
            justify="right" if setting.numeric else "left",
            no_wrap=True,
            max_width=WORDS,
        )
    for label in counts:
        table.add_column(label, justify="right", no_wrap=True)
    for run in finished[:MOST_ROWS]:
        said = printable(run.name)
        ending = said if len(said) <= name_width else f"…{said[1 - name_width :]}"  # where runs differ
        cells = [Text(ending), *(_cell(run, name, name in whole) for name in metrics)]
        cells += [Text(printable(value_words(run.settings[s.key]))) for s in settings]
        table.add_row(*cells, *(Text(_count(run, label) or ABSENT) for label in counts))
    console.print(table)
    for line in notes(comparison):
        console.print(printable(line), highlight=False, markup=False)
    rest = [short_name(name) for name in comparison.headline[len(metrics) :]] + [
        s.key for s in comparison.settings[len(settings) :]
    ]
    if rest:
        console.print(
            f"No room here for {', '.join(rest)}: see the page, or widen the window.", highlight=False, markup=False
        )


def _count(run: ComparedRun, label: str) -> str:
    """Pairs kept, or the late margin; empty where the run has none."""
    if label == "pairs":
        return str(run.pairs[0]) if run.pairs else ""
    return f"{run.training[label]:.3f}" if label in run.training else ""


def _setting_width(setting: Setting) -> int:
    return 2 + max(len(setting.short), *(min(len(value_words(value)), WORDS) for value in setting.values))


def notes(comparison: Comparison) -> list[str]:
    """Sentences below the table."""
    said = list(comparison.left_out)
    if any(run.best for run in comparison.runs):
        words = "★ best"
        if any(run.near for run in comparison.runs):
            words += "; ≈ not clearly worse than the best (the paired 95 % interval of the difference holds zero)"
        said.append(f"{words}. The best of many runs is partly luck: measure it again on scenes it was not picked by.")
    for setting in comparison.settings:
        own = [key for key in setting.along if not key.startswith("stages.") and "_target_" not in key]
        if own:
            more = f" and {len(own) - 4} more" if len(own) > 4 else ""
            said.append(f"Together with {setting.key} changed: {', '.join(own[:4])}{more}.")
    finished = sum(not run.run.problem for run in comparison.runs)
    if finished > MOST_ROWS:
        said.append(f"{finished - MOST_ROWS} more runs are in the page and in the CSV file.")
    said += [
        f"Without results: {run.name} ({run.label}): {run.run.problem}." for run in comparison.runs if run.run.problem
    ]
    return said


def write_csv(comparison: Comparison, path: Path) -> Path:
    """One row per run: folder, settings that differ, every metric with its interval and change, pairs, training."""
    rows = [_row(run, comparison) for run in comparison.runs]
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(file, names, restval="")
        writer.writerow({name: spreadsheet_cell(name) for name in names})
        writer.writerows({name: spreadsheet_cell(value) for name, value in row.items()} for row in rows)
    return path


def _row(run: ComparedRun, comparison: Comparison) -> dict[str, Any]:
    row: dict[str, Any] = {"run": run.name, "folder": str(run.run.folder), "problem": run.run.problem}
    row |= run.settings
    for name in comparison.metrics:
        metric, change = run.metrics.get(name), run.changes.get(name)
        row |= {name: _blank(metric and metric.value), f"{name}/low": _blank(metric and metric.low)}
        row |= {f"{name}/high": _blank(metric and metric.high), f"{name}/change": _blank(change and change.value)}
        row |= {
            f"{name}/change_low": _blank(change and change.low),
            f"{name}/change_high": _blank(change and change.high),
        }
        row[f"{name}/best"] = "best" if name in run.best else "as good" if name in run.near else ""
    row |= {"pairs/kept": _blank(run.pairs and run.pairs[0]), "pairs/dropped": _blank(run.pairs and run.pairs[1])}
    row |= {f"late/{label}": value for label, value in run.training.items()}
    row |= {key: _blank(run.run.results.get(key)) for key in ("steps", "seconds")}
    return row


def _blank(value: object) -> Any:
    return "" if value is None else value


def _title(comparison: Comparison) -> str:
    keys: Sequence[str] = [setting.key for setting in comparison.settings]
    differ = f"{', '.join(keys[:4])}{' …' if len(keys) > 4 else ''}" if keys else "nothing in their settings"
    return f"{len(comparison.runs)} runs that differ in {differ}"


def _that_fit(columns: Sequence[T], room: int, width: Callable[[T], int], *, least: int = 1) -> list[T]:
    """As many of the first columns as there is room for, in characters; at least `least`."""
    kept: list[T] = []
    for column in columns:
        room -= width(column)
        if room < 0 and len(kept) >= least:
            break
        kept.append(column)
    return kept


def _width(metric: str) -> int:
    return 3 + max(len("100.0 % ★"), len(short_name(metric)))


def _cell(run: ComparedRun, name: str, whole: bool) -> Any:
    from rich.text import Text

    if name not in run.metrics:
        return Text("–", style="dim")
    value, interval = show_parts(run.metrics[name])
    mark = " ★" if name in run.best else " ≈" if name in run.near else "  "
    text = Text(value, style="bold green" if name in run.best else "")
    if whole and interval:
        text.append(f" {interval}", style="dim")
    return text.append(mark)
