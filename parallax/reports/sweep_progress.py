"""How far a local sweep is: one bar and a line per running job on a terminal, a line per finished job everywhere else."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parallax.records.plain_text import say, terminal

LAST_BYTES = 4096  # of a run's log that are looked at for its last line


class SweepProgress:
    """Use as a context manager around the sweep.

    Args:
        label: the sweep's name.
        total: jobs in all.
        done: jobs that were finished before.
        terminal: force or forbid the bars; None looks at standard error.
    """

    def __init__(self, label: str, total: int, done: int, *, terminal: bool | None = None) -> None:
        self.label, self.total, self.done, self.before = label, total, done, done
        self.terminal = sys.stderr.isatty() if terminal is None else terminal
        self.started = time.perf_counter()
        self._bars: Any = None
        self._lines: dict[str, Any] = {}

    def __enter__(self) -> SweepProgress:
        if self.terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn())
            self._bars = Progress(
                *columns, TimeElapsedColumn(), TextColumn("{task.fields[said]}"), console=terminal(stderr=True)
            )
            self._all = self._bars.add_task(self.label, total=self.total, completed=self.done, said="")
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def running(self, jobs: Sequence[tuple[str, Path]]) -> None:
        """What each job under way, (name, folder), said last."""
        if self._bars is None:
            return
        for name in set(self._lines) - {name for name, _ in jobs}:
            self._bars.remove_task(self._lines.pop(name))
        for name, folder in jobs:
            if name not in self._lines:
                self._lines[name] = self._bars.add_task(f"  {name}", total=None, said="")
            self._bars.update(self._lines[name], said=last_words(folder)[:90])

    def finished(self, name: str, outcome: str) -> None:
        """One more job has ended."""
        self.done += 1
        spent = time.perf_counter() - self.started
        left = spent / (self.done - self.before) * (self.total - self.done)
        line = f"{self.label}: {self.done} of {self.total} done, {name}: {outcome}"
        line += f"; about {duration(left)} left" if self.done < self.total else ""
        if self._bars is not None:
            self._bars.update(self._all, completed=self.done)
            self._bars.console.print(line, highlight=False, markup=False)
        else:
            say(line)


def last_words(folder: Path) -> str:
    """The last message of a run's log, without time and origin."""
    path = folder / "run.log"
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LAST_BYTES))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return "starting"
    said = [match[1] for line in lines if (match := re.match(r"[\d\-]+ [\d:,]+ INFO +[\w.]+: (.*)", line))]
    return said[-1] if said else "starting"


def duration(seconds: float) -> str:
    """`45 s`, `12 min` or `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
