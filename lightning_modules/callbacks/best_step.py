"""Evaluation between steps that also chooses: the best step's weights are kept, a fit that gets no better is stopped."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl

from lightning_modules.callbacks.checkpoints import StepCheckpoints
from lightning_modules.tuning import TuningModule
from parallax.models.exchange import evaluating


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
        tuned = pl_module if isinstance(pl_module, TuningModule) else None
        if not self.due(step, None if tuned is None else tuned.total_steps):
            return
        if tuned is not None:
            tuned.policy.touched()
        with evaluating(pl_module):
            metrics = dict(self.act(step))
        self.history[step] = metrics
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step - 1)  # the step whose own metrics stand beside


log = logging.getLogger(__name__)


class BestStep(EveryNSteps):
    """Evaluates as `EveryNSteps` does, the last step too, and remembers where `monitor` was best.

    Args:
        every_n_steps, act: see `EveryNSteps`.
        monitor: the metric among those `act` returns.
        direction: +1 if more is better, −1 if less is.
        patience: stop after so many evaluations in a row that were no better; None never stops.
    """

    KIND = "best"  # how its checkpoint's name begins

    def __init__(
        self,
        every_n_steps: int,
        act: Callable[[int], Mapping[str, float]],
        monitor: str,
        direction: int,
        patience: int | None = None,
    ) -> None:
        super().__init__(every_n_steps, act)
        self.monitor, self.direction, self.patience = monitor, direction, patience
        self.best: float | None = None
        self.best_step = 0
        self.waited = 0
        self.stopped = False

    def due(self, step: int, total: int | None) -> bool:
        return step % self.every_n_steps == 0 or step == total

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Evaluate when the step is due; keep its checkpoint if it is the best so far."""
        super().on_train_batch_end(trainer, pl_module)
        metrics = self.history.get(trainer.global_step)
        if metrics is None:
            return
        if self.monitor not in metrics:
            raise ValueError(
                f"evaluation.monitor names {self.monitor!r}, and measured were {', '.join(metrics) or 'none'}"
            )
        value = metrics[self.monitor]
        if not math.isnan(value) and (self.best is None or self.direction * (value - self.best) > 0):
            self.best, self.best_step, self.waited = value, trainer.global_step, 0
            keeper = next(callback for callback in trainer.callbacks if isinstance(callback, StepCheckpoints))  # type: ignore[attr-defined]
            path = keeper.save(trainer)
            if trainer.is_global_zero:
                keeper.copy(path, self.KIND)
            trainer.strategy.barrier("best")
            return
        self.waited += 1
        if self.patience is not None and self.waited >= self.patience:
            self.stopped = trainer.should_stop = True
            log.info(
                "stopped at step %d: %s was best at step %d (%.4g) and no better in the %d evaluations since",
                trainer.global_step, self.monitor, self.best_step, self.best or math.nan, self.waited,
            )  # fmt: skip

    def take_best(self, module: TuningModule, keeper: StepCheckpoints, last: int) -> dict[str, Any] | None:
        """Give the module the best step's weights, where that is not the last step. What it was, as plain data."""
        if self.best is None:
            return None
        path = keeper.folder / f"{self.KIND}-{self.best_step:06d}.ckpt"
        if self.best_step != last:
            if not path.exists():
                log.warning("%s is gone; the weights of the last step are kept", path)
                return None
            module.load_trained(path)
            log.info("the weights of step %d are taken: %s %.4g", self.best_step, self.monitor, self.best)
        return {"monitor": self.monitor, "value": self.best, "step": self.best_step, "stopped_early": self.stopped}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed fit must know."""
        return {"best": self.best, "best_step": self.best_step, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_step, self.waited = (state_dict[key] for key in ("best", "best_step", "waited"))
