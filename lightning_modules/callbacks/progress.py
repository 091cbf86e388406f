"""How far the fit is: a bar on a terminal, a line now and then everywhere else."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl

from parallax.records.plain_text import terminal

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)

LINES = 10  # lines a quiet fit prints about, whatever its length


class FitProgress(pl.Callback):
    """Loss, margin, accuracy and time left.

    Args:
        label: what is being fitted, e.g. the stage's name.
        total_steps: optimiser steps of the whole fit.
        every_n_steps: steps between two lines where there is no terminal; None prints about ten lines in all.
        terminal: force or forbid the bar; None looks at standard error.
    """

    def __init__(
        self, label: str, total_steps: int, *, every_n_steps: int | None = None, terminal: bool | None = None
    ) -> None:
        self.label, self.total_steps = label, total_steps
        self.every_n_steps = every_n_steps or max(1, total_steps // LINES)
        self.terminal = sys.stderr.isatty() if terminal is None else terminal
        self._bar: Any = None
        self._started, self._first = 0.0, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar."""
        self._started, self._first = time.perf_counter(), trainer.global_step
        if self.terminal and trainer.is_global_zero:
            self._bar = _new_bar()
            self._task = self._bar.add_task(self.label, total=self.total_steps, completed=self._first, told="")
            self._bar.start()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Move the bar, or print a line when one is due."""
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        told = describe(pl_module.last_metrics)  # type: ignore[arg-type]
        if self._bar is not None:
            self._bar.update(self._task, completed=step, told=told)
        elif step % self.every_n_steps == 0 or step in (self._first + 1, self.total_steps):
            left = (time.perf_counter() - self._started) / (step - self._first) * (self.total_steps - step)
            log.info("%s: step %d of %d, %s, %s left", self.label, step, self.total_steps, told, duration(left))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def describe(metrics: dict[str, float]) -> str:
    """The numbers people watch, in one short line."""
    shown = (
        ("loss", "train/loss", ".4f"),
        ("margin", "train/rewards/margins", "+.3f"),
        ("accuracy", "train/rewards/accuracies", ".0%"),
    )
    return ", ".join(f"{name} {metrics[key]:{form}}" for name, key, form in shown if key in metrics)


def duration(seconds: float) -> str:
    """`45 s`, `12 min` or `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _new_bar() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(),
        console=terminal(stderr=True),
    )
