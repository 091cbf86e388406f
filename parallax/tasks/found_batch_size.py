"""The micro-batch size that `trainer.find_batch_size` found: looked for once per stage, remembered in the stage's folder.

A resumed fit takes the remembered size, so that it goes on exactly as it began.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from lightning_modules.callbacks import FindBatchSize
from parallax.records.atomic import atomic_write_json
from parallax.settings.groups import Trainer
from parallax.tasks.memory_forecast import Forecast
from parallax.tasks.trial_batches import trial_batch

FILE = "micro_batch.json"


class FoundBatchSize:
    """Knows whether there is anything to look for, and gives the callback that looks.

    Args:
        settings: the `trainer` group.
        folder: of the stage.
        forecast: of the fit; it is told the size that was found.
        resuming: whether the fit goes on from a checkpoint.
    """

    def __init__(self, settings: Trainer, folder: Path, forecast: Forecast, *, resuming: bool) -> None:
        self.wanted = settings.find_batch_size
        self.path, self.forecast = folder / FILE, forecast
        self._data: dict[str, Any] | None = None
        self._callback: FindBatchSize | None = None
        if self.wanted and resuming and self.path.is_file():
            self._data = json.loads(self.path.read_text(encoding="utf-8"))
            self._use(int(self._data["pairs"]))

    def search(self) -> FindBatchSize | None:
        """A callback that looks for the size; None when it was not asked for or is known already."""
        if not self.wanted or self._data is not None or (self._callback is not None and self._callback.found):
            return None
        forecast = self.forecast
        self._callback = FindBatchSize(
            partial(trial_batch, forecast.datamodule, forecast.policy),
            guess=forecast.largest(),
            most=forecast.share,
            moments=forecast.plan.parts["optimiser"],
            use=self._found,
        )
        return self._callback

    def as_data(self) -> dict[str, Any] | None:
        """For fit.json."""
        return self._data

    def _found(self, pairs: int) -> None:
        assert self._callback is not None
        self._data = self._callback.as_data()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_json(self.path, self._data)
        self._use(pairs)

    def _use(self, pairs: int) -> None:
        self.forecast.with_pairs(pairs)
        if self.forecast.options.micro_batch_tokens:
            self.forecast.datamodule.micro_batch_tokens = self.forecast.work.tokens
        else:
            self.forecast.datamodule.micro_batch_size = pairs
