"""What every logger of a run can be told beside metrics; one that has no use for it does nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loggers import Logger

if TYPE_CHECKING:
    import wandb


class StagedLogger(Logger):
    """A Lightning logger that knows of a run's stages, and perhaps a W&B run."""

    path: Path | None = None  # the file it writes, where it is one

    @property
    def run(self) -> wandb.Run | None:
        """The W&B run behind it, if there is one in this process and it still works."""
        return None

    def begin(self, stage: str) -> None:
        """What is logged from now on belongs to this stage of the run, whose steps count from 0."""

    def begin_stage(self, name: str) -> None:
        """From now on metrics of the fit stand below the name of the stage; "" for a run of one stage."""

    def try_to(self, what: str, act: Callable[[], Any]) -> Any:
        """Do something with the W&B run; None where there is none, or when it fails."""
        return None
