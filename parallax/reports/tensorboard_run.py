"""TensorBoard events of a run; where it has several stages, each stage's metrics are below its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from parallax.reports.staged_logger import StagedLogger


class StagedTensorBoard(StagedLogger, TensorBoardLogger):
    """Lightning's TensorBoard logger. Steps start anew with every stage, so stages must not share a curve."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.prefix_of_stage = ""

    def begin_stage(self, name: str) -> None:
        """From now on metrics of the fit belong to the stage `name`; "" for a run of one stage."""
        self.prefix_of_stage = f"{name}/" if name else ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        prefix = self.prefix_of_stage if step is not None else ""
        super().log_metrics({f"{prefix}{name}": value for name, value in metrics.items()}, step)
