"""What our callbacks can be told beyond what Lightning tells every callback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytorch_lightning as pl

if TYPE_CHECKING:
    from lightning_modules.bad_steps import BadStep
    from lightning_modules.tuning import TuningModule


class StepCallback(pl.Callback):
    """A callback that is also told of optimiser steps that were left out."""

    def on_bad_step(self, trainer: pl.Trainer, module: TuningModule, bad: BadStep) -> None:
        """A step was left out because a loss or a gradient was not a finite number. Called on every process."""


def callbacks_of(trainer: pl.Trainer) -> list[pl.Callback]:
    """The trainer's callbacks, a list that may be changed."""
    return trainer.callbacks  # type: ignore[attr-defined,no-any-return]
