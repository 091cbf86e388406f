"""For loggers that have one step axis: where a run has several stages, each stage's metrics are below its name."""

from __future__ import annotations

from collections.abc import Mapping

from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from parallax.reports.staged_logger import StagedLogger


class Staged(StagedLogger):
    """Goes before Lightning's logger among the bases. Steps start anew with every stage, so stages must not share a curve."""

    prefix_of_stage = ""

    def begin_stage(self, name: str) -> None:
        """From now on metrics of the fit belong to the stage `name`; "" for a run of one stage."""
        self.prefix_of_stage = f"{name}/" if name else ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        prefix = self.prefix_of_stage if step is not None else ""
        super().log_metrics({f"{prefix}{name}": value for name, value in metrics.items()}, step)  # type: ignore[safe-super]


class StagedTensorBoard(Staged, TensorBoardLogger):
    """TensorBoard events of a run."""
