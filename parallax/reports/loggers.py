"""Where curves and tables go: W&B (offline by itself without a key), TensorBoard, MLflow, and always a CSV in the run folder.

    loggers = build_loggers(cfg, run_folder=folder, config=plain_config)
    try:
        trainer = pl.Trainer(logger=loggers); …
    finally:
        close_loggers(loggers)

Closing matters: two `wandb.init` in one process return the same run, so a multirun would mix its jobs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parallax.reports.environment import without_secrets

if TYPE_CHECKING:
    from parallax.reports.staged_logger import StagedLogger

log = logging.getLogger(__name__)

DECIDE_NOTHING = (
    "paths",
    "resume",
    "runs",
    "run",
    "sweep",
    "sweep_jobs",
    "logger",
)  # of the configuration that loggers show
KINDS = ("wandb", "csv", "tensorboard", "mlflow")


def build_loggers(
    logger_cfg: Mapping[str, Any] | None,
    *,
    run_folder: Path | str,
    config: Mapping[str, Any],
    name: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    job_type: str | None = None,
) -> list[StagedLogger]:
    """Lightning loggers for one run.

    Args:
        logger_cfg: kind → its options: `wandb` {project, entity, group, name, mode}, `tensorboard` {folder},
            `mlflow` {experiment, uri}. Empty or None: only `metrics.csv`, which every run has.
        run_folder: W&B's files, its run id, `metrics.csv` and TensorBoard's events go here.
        config: the resolved configuration as plain data; secrets are hidden before it leaves.
        name, group, tags, job_type: of the W&B run. `WANDB_NAME`, `WANDB_PROJECT`, `WANDB_ENTITY`, `WANDB_RUN_GROUP`,
            `WANDB_JOB_TYPE`, `WANDB_TAGS` and `WANDB_MODE` come first where they are set.

    Returns:
        The CSV logger first (always), then the others. A W&B run that cannot start is left out with a warning:
        training is worth more than its curves.
    """
    from parallax.reports.metrics_csv import MetricsCsv

    folder = Path(run_folder)
    folder.mkdir(parents=True, exist_ok=True)
    given = dict(logger_cfg or {})
    wanted = {
        kind: dict(given[kind]) if isinstance(given[kind], Mapping) else {} for kind in KINDS if _is_on(given, kind)
    }
    loggers: list[StagedLogger] = [MetricsCsv(folder)]
    plain = {key: value for key, value in without_secrets(config).items() if key not in DECIDE_NOTHING}
    if "wandb" in wanted:
        from parallax.reports.wandb_run import start_wandb

        started = start_wandb(wanted["wandb"], folder, plain, name=name, group=group, tags=tags, job_type=job_type)
        loggers += [started] if started else []
    if "tensorboard" in wanted:
        from parallax.reports.staged import StagedTensorBoard

        subfolder = str(wanted["tensorboard"].get("folder") or "tensorboard")
        loggers.append(StagedTensorBoard(folder, name=subfolder, version=""))
    if "mlflow" in wanted:
        from parallax.reports.mlflow_run import start_mlflow

        about = {"group": group, "job_type": job_type, "tags": ", ".join(tags)}
        told = {key: value for key, value in about.items() if value}
        opened = start_mlflow(wanted["mlflow"], folder, plain, name, told)
        loggers += [opened] if opened else []
    return loggers


def close_loggers(loggers: Sequence[StagedLogger], *, failed: bool = False) -> None:
    """Finish every logger; call it in a `finally`. A logger that cannot finish is named in the log and does no harm."""
    for logger in loggers:
        try:
            logger.finalize("failed" if failed else "success")
            if logger.run is not None:
                from parallax.reports.wandb_run import finish_wandb

                finish_wandb(exit_code=int(failed))
        except Exception as error:  # the run's results are safe already
            log.warning("the logger %s could not be closed: %s", type(logger).__name__, error)


def log_metrics(loggers: Sequence[StagedLogger], metrics: Mapping[str, float], step: int | None = None) -> None:
    """The same numbers to every logger (`eval/chair_i`, `pairs/kept`, …); in W&B they are also the run's summary.

    W&B's history gets, of numbers without a step, only what has a curve or is searched for: a panel of one point says nothing.
    """
    for logger in loggers:
        run = logger.run
        shown = metrics if run is None or step is not None else {k: v for k, v in metrics.items() if has_curve(k)}
        logger.log_metrics(dict(shown), step)
        if run is not None:
            logger.try_to("note results", partial(run.summary.update, dict(metrics)))


def has_curve(metric: str) -> bool:
    """Whether a number of the whole run belongs into W&B's history."""
    return metric.startswith("eval/") or metric in ("margin", "pairs/kept")


def log_point(loggers: Sequence[StagedLogger], metrics: Mapping[str, float], step: int) -> None:
    """A point of W&B's curves that no training step logs, such as the evaluation before the first step."""
    for logger in loggers:
        if logger.run is not None:
            logger.log_metrics(dict(metrics), step)


def begin_stage(loggers: Sequence[StagedLogger], name: str) -> None:
    """Tell the loggers that a stage's fit begins; its metrics get a step axis of their own. "" for a run of one stage."""
    for logger in loggers:
        logger.begin_stage(name)


def _is_on(logger_cfg: Mapping[str, Any], kind: str) -> bool:
    if kind not in logger_cfg:
        return False
    options = logger_cfg[kind]
    return options is not False and (not isinstance(options, Mapping) or options.get("enabled", True))
