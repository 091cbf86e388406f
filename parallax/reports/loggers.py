"""Where curves and tables go: W&B (offline by itself without a key), TensorBoard, and always a CSV in the run folder.

    loggers = build_loggers(cfg, run_folder=folder, config=plain_config)
    try:
        trainer = pl.Trainer(logger=loggers); …
    finally:
        close_loggers(loggers)

Closing matters: two `wandb.init` in one process return the same run, so a multirun would mix its jobs.
"""

from __future__ import annotations

import logging
import os
import secrets
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parallax.reports.environment import without_secrets

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger, WandbLogger

log = logging.getLogger(__name__)

KINDS = ("wandb", "csv", "tensorboard")


def build_loggers(
    logger_cfg: Mapping[str, Any] | None,
    *,
    run_folder: Path | str,
    config: Mapping[str, Any],
    name: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    job_type: str | None = None,
) -> list[Logger]:
    """Lightning loggers for one run.

    Args:
        logger_cfg: kind → its options: `wandb` {project, entity, group, name, mode}, `tensorboard` {folder}. Empty or
            None: only `metrics.csv`, which every run has.
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
    wanted = {kind: _options(given[kind]) for kind in KINDS if _is_on(given, kind)}
    loggers: list[Logger] = [MetricsCsv(folder)]
    if "wandb" in wanted:
        started = _wandb(wanted["wandb"], folder, without_secrets(config), name, group, list(tags), job_type)
        loggers += [started] if started else []
    if "tensorboard" in wanted:
        from pytorch_lightning.loggers import TensorBoardLogger

        subfolder = str(wanted["tensorboard"].get("folder") or "tensorboard")
        loggers.append(TensorBoardLogger(folder, name=subfolder, version=""))
    return loggers


def close_loggers(loggers: Sequence[Logger], *, failed: bool = False) -> None:
    """Finish every logger; call it in a `finally`. A logger that cannot finish is named in the log and does no harm."""
    for logger in loggers:
        try:
            logger.finalize("failed" if failed else "success")
            if wandb_run_of(logger) is not None:
                _finish_wandb(exit_code=int(failed))
        except Exception as error:  # the run's results are safe already
            log.warning("the logger %s could not be closed: %s", type(logger).__name__, error)


def log_metrics(loggers: Sequence[Logger], metrics: Mapping[str, float], step: int | None = None) -> None:
    """The same numbers to every logger (`eval/chair_i`, `pairs/kept`, …); in W&B they also become the run's summary."""
    for logger in loggers:
        logger.log_metrics(dict(metrics), step)
        run = wandb_run_of(logger)
        if run is not None:
            run.summary.update(dict(metrics))


def wandb_run_of(logger: Logger) -> Any | None:
    """The W&B run behind a logger, if there is one in this process."""
    if type(logger).__name__ != "WandbLogger":
        return None
    run = getattr(logger, "experiment", None)
    return run if hasattr(run, "summary") and hasattr(run, "log") else None


def has_wandb_key() -> bool:
    """Whether W&B would find a key or token: in the environment or in ~/.netrc. Asks nothing over the network."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    import netrc

    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC") or str(Path.home() / ".netrc")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError, RuntimeError):
        return False


def run_id(folder: Path) -> str:
    """The W&B id of this run folder: made once, kept in `wandb_id`, so that crash and resume are one curve.

    An agent of a sweep hands its own id over in `WANDB_RUN_ID`.
    """
    file = folder / "wandb_id"
    if os.environ.get("WANDB_RUN_ID"):
        return os.environ["WANDB_RUN_ID"]
    if not file.is_file() or not file.read_text().strip():
        alphabet = string.ascii_lowercase + string.digits
        file.write_text("".join(secrets.choice(alphabet) for _ in range(10)) + "\n")
    return file.read_text().strip()


def _is_on(logger_cfg: Mapping[str, Any], kind: str) -> bool:
    if kind not in logger_cfg:
        return False
    options = logger_cfg[kind]
    return options is not False and (not isinstance(options, Mapping) or options.get("enabled", True))


def _options(value: Any) -> dict[str, Any]:
    """A logger's options; `true` or nothing means the defaults."""
    return dict(value) if isinstance(value, Mapping) else {}


def _wandb(
    options: dict[str, Any], folder: Path, config: dict[str, Any], name: str | None, group: str | None,
    tags: list[str], job_type: str | None,
) -> WandbLogger | None:  # fmt: skip
    from pytorch_lightning.utilities import rank_zero_only

    mode = os.environ.get("WANDB_MODE") or options.get("mode")
    if mode == "disabled":
        return None
    if mode in (None, "online", "auto") and not has_wandb_key():
        if getattr(rank_zero_only, "rank", 0) == 0:
            log.info("no W&B key found: logging offline into %s; `wandb sync` uploads it later", folder / "wandb")
        mode = "offline"
    wanted = {
        "project": os.environ.get("WANDB_PROJECT") or options.get("project") or "parallax",
        "entity": os.environ.get("WANDB_ENTITY") or options.get("entity"),
        "group": os.environ.get("WANDB_RUN_GROUP") or options.get("group") or group,
        "job_type": os.environ.get("WANDB_JOB_TYPE") or options.get("job_type") or job_type,
        "name": os.environ.get("WANDB_NAME") or options.get("name") or name,
        "tags": [*tags, *(tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag and tag not in tags)],
    }
    for attempt in dict.fromkeys([mode, "offline"]):
        try:
            return _start_wandb(wanted, folder, config, attempt)
        except Exception as error:  # no network, a full disk, a refused key: none is a reason not to train
            log.warning(
                "W&B does not start (%s): %s", attempt or "online", str(error).splitlines()[0] if str(error) else error
            )
            _finish_wandb(exit_code=1)
    return None


def _start_wandb(wanted: dict[str, Any], folder: Path, config: dict[str, Any], mode: str | None) -> WandbLogger:
    """Start (or continue) the run now, so that a failure shows here and not in the middle of training."""
    import wandb
    from pytorch_lightning.loggers import WandbLogger
    from pytorch_lightning.utilities import rank_zero_only

    name = run_id(folder)
    if getattr(rank_zero_only, "rank", 0) != 0:
        return WandbLogger(project=wanted["project"], save_dir=folder, id=name)  # never starts a run on other ranks
    _finish_wandb()  # a run that a former job of this process left open would be taken for ours
    run = wandb.init(
        **wanted,
        dir=folder,
        id=name,
        resume="allow",
        mode="offline" if mode == "offline" else "online",
        config=config,
        settings=wandb.Settings(silent=True, console="off", init_timeout=30),
    )
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=run, project=wanted["project"], save_dir=folder, id=name)


def _finish_wandb(exit_code: int = 0) -> None:
    import sys

    if "wandb" in sys.modules and sys.modules["wandb"].run is not None:
        sys.modules["wandb"].finish(exit_code=exit_code)
