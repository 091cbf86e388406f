"""A run in MLflow, by Lightning's own logger: a store in one file unless `MLFLOW_TRACKING_URI` names a server."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import MLFlowLogger
from pytorch_lightning.utilities import rank_zero_only

from parallax.reports.staged import Staged

log = logging.getLogger(__name__)
ID = "mlflow_id"  # file in the run folder: a resumed run goes on in the same MLflow run


class StagedMLFlow(Staged, MLFlowLogger):
    """Lightning's MLflow logger, a stage's metrics below its name. A store that fails is left alone from then on."""

    failed = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self.failed:
            return
        try:
            super().log_metrics(metrics, step)
        except Exception as error:  # curves are not worth a run
            self.failed = True
            log.warning("MLflow takes no more metrics (%s); the run goes on, metrics.csv has everything", error)


def start_mlflow(
    options: Mapping[str, Any], folder: Path, config: Mapping[str, Any], name: str | None, tags: Mapping[str, str]
) -> StagedMLFlow | None:
    """Start or continue the folder's run. None, with a line in the log, where the store cannot be reached.

    Args:
        options: `experiment` and `uri`, null for the file `mlflow.db` beside the run folders of a day.
        folder: of the run; keeps the run's id.
        config: what decides the run, logged as parameters `loss.beta`, …
        name: of the run; None takes the folder's.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # else a server that is not there costs minutes
    logging.getLogger("alembic").setLevel(logging.ERROR)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    kept = folder / ID
    before = kept.read_text("utf-8").strip() if kept.is_file() else None
    try:
        started = StagedMLFlow(
            experiment_name=str(options.get("experiment") or "parallax"),
            tracking_uri=str(options.get("uri") or f"sqlite:///{folder.absolute().parent / 'mlflow.db'}"),
            run_name=name or folder.name,
            run_id=before,
            tags=dict(tags),
        )
        run_id = started.run_id
        if run_id is not None and before is None:  # none on further processes
            started.log_hyperparams(dict(config))
            kept.write_text(run_id, encoding="utf-8")
    except Exception as error:
        log.warning("MLflow does not start: %s", str(error).splitlines()[0] if str(error) else type(error).__name__)
        return None
    return started
