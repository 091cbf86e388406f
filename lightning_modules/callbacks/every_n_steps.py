"""Something that is done between two optimiser steps now and then, such as evaluating the policy as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl


class EveryNSteps(pl.Callback):
    """Calls `act(step)` after every `every_n_steps` optimiser steps and logs the numbers it returns.

    The network is in evaluation mode meanwhile and goes back to what it was. Called on every process.

    Args:
        every_n_steps: at least 1.
        act: step → metrics, named as they shall be logged.
    """

    def __init__(self, every_n_steps: int, act: Callable[[int], Mapping[str, float]]) -> None:
        if every_n_steps < 1:
            raise ValueError(f"evaluation.every_n_steps={every_n_steps}: it must be at least 1, or null for never")
        self.every_n_steps, self.act = every_n_steps, act
        self.history: dict[int, dict[str, float]] = {}

    def due(self, step: int, total: int | None) -> bool:
        """Never after the last step, which is evaluated anyway."""
        return step % self.every_n_steps == 0 and step != total

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Act when the step is due."""
        step = trainer.global_step
        if not self.due(step, getattr(pl_module, "total_steps", None)):
            return
        modes = {module: module.training for module in pl_module.modules()}
        if hasattr(pl_module, "policy"):
            pl_module.policy.touched()  # type: ignore[operator,union-attr]
        pl_module.eval()
        try:
            metrics = dict(self.act(step))
        finally:
            for module, training in modes.items():
                module.training = training
        self.history[step] = metrics
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step - 1)  # the step whose own metrics stand beside
