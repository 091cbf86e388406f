"""What a pair build did, in numbers and in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from parallax.records.plain_text import terminal


@dataclass(frozen=True, slots=True)
class BuildReport:
    """Counts of one build.

    samples = kept + dropped + skipped; the rows a reader could not use are part of both samples and skipped.
    """

    samples: int  # looked at
    built: int  # answers generated now
    reused: int  # answers found in the cache
    kept: int  # pairs
    dropped: dict[str, int] = field(default_factory=dict)  # samples without a pair, by reason
    skipped: dict[str, int] = field(default_factory=dict)  # samples that could not be used, by reason
    seconds: float = 0.0
    pair_set: Path = Path()  # folder of the pair set in the cache
    key: str = ""  # its content address
    wait_share: float = 0.0  # of the time spent generating: how much of it the model waited for images, 0 to 1
    judge: dict[str, int] = field(default_factory=dict)  # what the judge counted, such as verdicts per place

    def line(self) -> str:
        """E.g. `pairs: 1,412 kept of 2,000 (587 equal, 1 truncated); 2,000 generated, 2,000 reused from the cache`.

        Where answers were generated it goes on: `; the model waited for images 1 % of the time`.
        """
        gone = [f"{count:,} {reason}" for reason, count in (self.dropped | self.skipped).items()]
        why = f" ({', '.join(gone)})" if gone else ""
        answers = f"{self.built:,} generated, {self.reused:,} reused from the cache"
        made = answers if self.built or self.reused else "given ready-made"
        waited = (
            f"; the model waited for images {self.wait_share:.0%} of the time".replace("%", " %") if self.built else ""
        )
        return f"pairs: {self.kept:,} kept of {self.samples:,}{why}; {made}{waited}"

    def as_data(self) -> dict[str, Any]:
        """Plain data for results and manifests."""
        return {
            **asdict(self),
            "pair_set": str(self.pair_set),
            "seconds": round(self.seconds, 3),
            "wait_share": round(self.wait_share, 4),
        }


@contextmanager
def bar(what: str, total: int, *, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Inside: call the given function with the number of items just done. Shows nothing when output is not a terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.1f}/s" if speed else "")

    console = terminal(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)
