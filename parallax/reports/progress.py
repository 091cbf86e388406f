"""A progress bar with rate and time left for anything that counts answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from parallax.records.plain_text import terminal


@contextmanager
def answer_progress(what: str, total: int, *, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Give a function to call with the number of answers just finished. The bar is on a terminal only.

    >>> with answer_progress("evaluating", 400) as done: policy.generate(requests, progress=done)
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", style="dim"),
        TimeRemainingColumn(compact=True),
    )
    console = terminal(stderr=True)
    with Progress(*columns, transient=True, console=console, disable=not (shown and console.is_terminal)) as progress:
        bar = progress.add_task(what, total=total, rate="")

        def done(count: int) -> None:
            progress.advance(bar, count)
            speed = progress.tasks[bar].finished_speed or progress.tasks[bar].speed
            if speed:
                progress.update(bar, rate=f"{speed:.1f}/s")

        yield done
