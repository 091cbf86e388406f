"""The W&B run of a run folder: started online, else offline, else left out with one line; never a reason not to train.

Names of metrics are those of the CSV. Where a run has several stages, each stage's metrics are below its name and have a step
axis of their own (`infuse/train/loss` against `infuse/step`); a run of one stage has `train/…` against `trainer/global_step`.
"""

from __future__ import annotations

import logging
import os
import secrets
import string
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from parallax.reports.environment import git_state
from parallax.reports.metric_names import direction
from parallax.reports.results import HEADLINE
from parallax.reports.staged_logger import StagedLogger
from parallax.reports.wandb_before import AXIS, last_steps, rows_before, wandb_mode

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

START_SECONDS = 30  # W&B's own start waits so long, after the server has answered at all
WRITE_SECONDS = 2  # W&B brings its offline file to the disk so often; what a killed run lacks comes from metrics.csv
GOALS = {**{f"eval/{name}": direction(name) for name in HEADLINE}, "margin": 1, "pairs/kept": 1}  # +1: more is better
LOGGING = "`wandb sync` uploads it later"


class RunLogger(StagedLogger, WandbLogger):
    """Lightning's W&B logger, with a step axis for each stage, and silent once W&B has failed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.failed = False
        self.prefix = ""
        self.before: dict[str, int] | None = None  # metric → its last step in files of an earlier process of this run
        self.caught_up: set[str] = set()  # stages whose steps before the crash are all there

    @property
    def run(self) -> wandb.Run | None:
        return None if self.failed or not _is_first() else self.experiment

    @rank_zero_only
    def begin_stage(self, name: str) -> None:
        """From now on metrics of the fit belong to the stage `name`; "" for a run of one stage."""
        self.prefix = f"{name}/" if name else ""
        if name:
            self.try_to("define an axis", lambda: _define_axis(self.experiment, f"{name}/*", f"{name}/step"))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Metrics of a step go to the stage's axis; those without a step are of the whole run."""
        if step is not None and self.before is not None and self.prefix not in self.caught_up:
            self.caught_up.add(self.prefix)
            self.try_to("catch up", lambda: self._catch_up(step))
        self._log(metrics, step)

    def _catch_up(self, step: int) -> None:
        """Log what W&B's files lack of the steps before `step`."""
        for earlier, values in rows_before(Path(str(self.save_dir)), self.prefix.rstrip("/"), step):
            self._log(values, earlier)

    def _log(self, metrics: Mapping[str, float], step: int | None) -> None:
        prefix = self.prefix if step is not None else ""
        if step is not None and self.before:
            last = self.before
            metrics = {name: value for name, value in metrics.items() if last.get(f"{prefix}{name}", -1) < step}
        if not metrics:
            return
        named = {f"{prefix}{name}": value for name, value in metrics.items()}
        for name, value in metrics.items():
            if name in GOALS:
                named[_best(name)] = value
        if step is not None:
            named[f"{self.prefix}step" if self.prefix else AXIS] = step
        self.try_to("log", lambda: self.experiment.log(named))

    def try_to(self, what: str, act: Callable[[], Any]) -> Any:
        """Do something with W&B; when that fails, say so once and leave W&B alone from then on."""
        if self.failed:
            return None
        try:
            return act()
        except Exception as error:
            self.failed = True
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            log.warning(
                "W&B can no longer %s (%s); the run goes on without it, metrics.csv has everything", what, reason
            )
            return None


def start_wandb(options: Mapping[str, Any], folder: Path, config: Mapping[str, Any], **wanted: Any) -> RunLogger | None:
    """Start or continue the folder's run. None, with one line in the log, when W&B cannot even log offline.

    Args:
        options: the `logger.wandb` group.
        folder: W&B's files and the run's id go here.
        config: plain data without secrets.
        wanted: name, group, tags, job_type; W&B's environment variables come before them.
    """
    is_first = _is_first()
    mode, why = wandb_mode(options, ask=is_first)
    if mode == "disabled":
        return None
    run_settings = {
        "project": os.environ.get("WANDB_PROJECT") or options.get("project") or "parallax",
        "entity": os.environ.get("WANDB_ENTITY") or options.get("entity"),
        "group": os.environ.get("WANDB_RUN_GROUP") or options.get("group") or wanted.get("group"),
        "job_type": os.environ.get("WANDB_JOB_TYPE") or options.get("job_type") or wanted.get("job_type"),
        "name": os.environ.get("WANDB_NAME") or options.get("name") or wanted.get("name"),
        "tags": list(dict.fromkeys([*(wanted.get("tags") or ()), *_environment_tags()])),
    }
    seconds = float(options.get("finish_timeout") or 120)
    if not is_first:
        return RunLogger(project=run_settings["project"], save_dir=folder, id=run_id(folder))  # starts nothing there
    failures = [why] if why else []
    for attempt in dict.fromkeys([mode, "offline"]):
        try:
            logger = _started(run_settings, folder, config, attempt, seconds)
            if attempt == "offline" and failures:
                log.info("W&B: %s, so logging goes offline into %s; %s", failures[0], folder / "wandb", LOGGING)
            elif attempt != "offline":
                log.info("W&B run %s", logger.experiment.url)
            return logger
        except Exception as error:  # no network, a full disk, a refused key: none is a reason not to train
            failures.append(str(error).splitlines()[0] if str(error) else type(error).__name__)
            _give_up_wandb()
    log.warning("W&B does not start (%s); the run goes on without it, metrics.csv has everything", failures[-1])
    return None


def _is_first() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0


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


def finish_wandb(exit_code: int = 0) -> None:
    """Finish the open run of this process, if there is one. Waits for uploads as long as `finish_timeout` allows."""
    import sys

    if "wandb" in sys.modules and sys.modules["wandb"].run is not None:
        sys.modules["wandb"].finish(exit_code=exit_code)


def _environment_tags() -> list[str]:
    return [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag]


def _started(
    run_settings: Mapping[str, Any], folder: Path, config: Mapping[str, Any], mode: str, seconds: float
) -> RunLogger:
    """Start (or continue) the run now, so that a failure shows here and not in the middle of training."""
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    finish_wandb()  # a run that a former job of this process left open would be taken for ours
    name = run_id(folder)
    wanted: dict[str, Any] = {
        "silent": True,
        "console": "off",
        "init_timeout": START_SECONDS,
        "finish_timeout": seconds,
        "x_transaction_log_flush_interval": float(WRITE_SECONDS),
    }
    before = last_steps(folder, name)
    run = wandb.init(
        **run_settings,
        dir=folder,
        id=name,
        resume="allow",
        mode="offline" if mode == "offline" else "online",
        config={**config, "code": git_state()},
        settings=wandb.Settings(**{key: value for key, value in wanted.items() if key in wandb.Settings.model_fields}),
    )
    run.define_metric(AXIS)
    for names in ("train/*", "eval/*"):
        _define_axis(run, names, AXIS)
    for metric, sign in GOALS.items():
        run.define_metric(_best(metric), summary="max" if sign > 0 else "min")
    logger = RunLogger(experiment=run, project=str(run_settings["project"]), save_dir=folder, id=name)
    logger.before = before
    return logger


def _define_axis(run: wandb.Run, names: str, axis: str) -> None:
    run.define_metric(axis)
    run.define_metric(names, step_metric=axis, step_sync=True)


def _best(metric: str) -> str:
    """Where the best value so far of a metric stands: W&B keeps its smallest or largest in the run's summary."""
    return f"best/{metric.removeprefix('eval/')}"


def _give_up_wandb() -> None:
    """Let go of a run that did not start, and of W&B's own process; waits no longer than ten seconds for either."""

    def release() -> None:
        import wandb

        wandb.teardown(exit_code=1)

    thread = threading.Thread(target=release, daemon=True)
    thread.start()
    thread.join(timeout=10)
