"""One stage of a run: take the policy as it is, build the stage's data, fit, hand the policy on as an adapter on disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parallax.models import processes
from parallax.records.atomic import atomic_write_json
from parallax.records.pair_store import PairSet, images_of
from parallax.reports.artifacts import note_adapter, note_pairs, note_policy
from parallax.reports.loggers import begin_stage, build_loggers, close_loggers
from parallax.reports.pairs_table import log_pairs
from parallax.settings.build import build
from parallax.settings.groups import Logger, Stage, Wandb
from parallax.settings.stages import PlannedStage
from parallax.tasks.memory_forecast import explained_generation
from parallax.tasks.naming import group_name, run_name, tag_words
from parallax.tasks.parts import make_datamodule, make_supervised

if TYPE_CHECKING:
    from parallax.models.policy import Policy
    from parallax.records import PreferencePair
    from parallax.reports.staged_logger import StagedLogger
    from parallax.tasks.run_state import RunManifest

log = logging.getLogger(__name__)


@dataclass
class Run:
    """What the stages of one run share, and what they add up to."""

    config: dict[str, Any]
    folder: Path
    device: str
    manifest: RunManifest
    builder: Any = None  # Lightning's Trainer on whose predict loop several processes build pairs; None for one process
    started: float = field(default_factory=time.perf_counter)
    pairs: dict[str, Sequence[PreferencePair]] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=lambda: {"built": 0, "reused": 0, "kept": 0, "dropped": {}})
    warnings: list[str] = field(default_factory=list)
    fits: dict[str, Any] = field(default_factory=dict)
    steps: int = 0
    several: bool = False  # whether the run has more than one stage
    now: str = ""  # the stage under way

    @cached_property
    def loggers(self) -> list[StagedLogger]:
        """Started when first asked for, which is once the policy answers: Lightning and W&B take seconds to import."""
        return build_loggers(
            self.config.get("logger"),
            run_folder=self.folder,
            config=self.config,
            name=run_name(self.config),
            group=group_name(),
            tags=tag_words(self.config),
            job_type=self.config["method"]["name"],
        )

    def close_loggers(self, *, failed: bool) -> None:
        """Finish those that were started."""
        if "loggers" in self.__dict__:
            close_loggers(self.loggers, failed=failed)

    @property
    def wandb(self) -> Wandb | None:
        """None where W&B is not among the loggers."""
        return Logger.of(self.config["logger"]).wandb

    def stage_folder(self, planned: PlannedStage) -> Path:
        return self.folder / "stages" / planned.name


@dataclass(frozen=True)
class StageStart:
    """Where a stage begins."""

    adapter: Path | None  # what the policy was loaded with; None for the base model
    round_adapter: Path | None  # what it was loaded with as the round began


def run_stage(
    run: Run, policy: Policy, planned: PlannedStage, start: StageStart, evaluate: Callable[[int], dict[str, float]] | None
) -> Path:  # fmt: skip
    """Build the stage's data, fit, write the adapter, note it in the manifest. Returns the adapter's folder.

    `evaluate` is asked every `evaluation.every_n_steps` optimiser steps; None for never.
    """
    from parallax.tasks import training  # with Lightning, whose import the first answers need not wait for

    stage, folder = replace(planned.stage, name=planned.name), run.stage_folder(planned)
    folder.mkdir(parents=True, exist_ok=True)
    log.info("stage %s", planned.name)
    for logger in run.loggers:
        logger.begin(planned.name)
    run.now = planned.name
    begin_stage(run.loggers, planned.name if run.several else "")
    before = policy.fingerprint()
    if run.wandb is not None and run.wandb.artifacts:
        model, given = run.config["model"], _relative(start.adapter, run.folder)
        note_policy(run.loggers, str(model["name"]), before, base=str(model["path"]), adapter=given)
    reference = _set_reference(policy, stage, start)
    prepare = _supervised if stage.fit == "supervised" else _preference
    resume = training.checkpoint_in(folder) if run.config["resume"] != "never" else None
    callbacks = training.between_steps(run.config["evaluation"], evaluate)
    summary = prepare(run, policy, stage, folder, partial(training.fit_stage, resume_from=resume, callbacks=callbacks))
    adapter = folder / "adapter"
    policy.save_adapter(adapter)
    after = policy.fingerprint()
    if processes.is_first():
        atomic_write_json(folder / "fit.json", summary)
        if run.wandb is not None and run.wandb.artifacts:
            note_adapter(run.loggers, adapter, after, stage=planned.name, upload=run.wandb.log_model)
    note = {
        "round": planned.round,
        "stage": planned.stage.name,
        "fit": stage.fit,
        "policy_before": before,
        "adapter_before": _relative(start.adapter, run.folder),
        "reference": reference,
        "data": summary["pair_reports"],
        "adapter": _relative(adapter, run.folder),
        "policy_after": after,
        "summary": {
            key: summary[key]
            for key in ("steps", "seconds", "metrics", "late_margin", "bad_steps", "segments", "portions", "warnings")
        },
    }
    run.manifest.note(planned.name, **note)
    accumulate(run, run.manifest.stages[planned.name])
    return adapter


def accumulate(run: Run, entry: Mapping[str, Any]) -> None:
    """Count a finished stage, just now or in an earlier process, into the run's results."""
    summary = dict(entry["summary"])
    run.steps += int(summary["steps"])
    run.warnings += [warning for warning in summary.pop("warnings") if warning not in run.warnings]
    run.fits[entry["name"]] = summary
    portions = summary.pop("portions", 1)
    for report in entry["data"][:portions]:  # pairs that are built anew while training are not counted twice
        for key in ("built", "reused"):
            run.counts[key] += report[key]
        kept = "dialogues" if entry["fit"] == "supervised" else "kept"
        run.counts[kept] = run.counts.get(kept, 0) + report["kept"]
        for reason, count in report["dropped"].items():
            run.counts["dropped"][reason] = run.counts["dropped"].get(reason, 0) + count


def restore_pairs(run: Run, planned: PlannedStage, entry: Mapping[str, Any]) -> None:
    """The pairs of a stage that an earlier process finished, for the report. Left out, with a word, if they are gone."""
    if planned.stage.fit != "preference" or not entry["data"]:
        return
    source = build(planned.stage.data, "data")
    try:
        self_made = PairSet(Path(entry["data"][-1]["pair_set"])).load(images_of(source.pairs or source))
        run.pairs[planned.name] = self_made
    except (OSError, ValueError, KeyError) as error:
        log.warning("the pairs of stage %s are not in the report: %s", planned.name, error)


def _set_reference(policy: Policy, stage: Stage, start: StageStart) -> dict[str, Any] | None:
    """Make the policy's reference what `reference.source` says; what the manifest is told about it."""
    if stage.fit != "preference":
        return None
    source = stage.reference.source
    if source == "previous_stage":
        policy.take_reference()
    elif source == "previous_round" and start.round_adapter is not None:
        policy.take_reference(start.round_adapter if start.round_adapter != start.adapter else None)
    return {"source": source, "mode": stage.reference.mode, "policy": policy.reference_fingerprint()}


def _preference(
    run: Run, policy: Policy, stage: Stage, folder: Path, fit: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    datamodule = make_datamodule(stage, run.config, run.folder)
    with explained_generation(policy, stage.generation.batch_size, stage.generation.max_new_tokens):
        report = datamodule.build_pairs(policy, run.builder)
    if processes.is_first():
        atomic_write_json(folder / "pairs.json", report.as_data())
    _begin_again(run, policy, stage)
    run.pairs[stage.name] = datamodule.pairs
    if processes.is_first() and (wanted := run.wandb) is not None:
        if wanted.log_pairs:
            key = f"pairs/{run.now}" if run.several else "pairs"
            log_pairs(run.loggers, datamodule.pairs, limit=wanted.log_pairs, key=key, side=wanted.thumbnail)
        if wanted.artifacts:
            note_pairs(run.loggers, report.pair_set, report.as_data())
    summary = fit(policy, datamodule, stage, folder, run.loggers)
    run.pairs[stage.name] = datamodule.pairs  # the newest, where they were built anew or came in portions
    if summary["portions"] > 1 and processes.is_first() and datamodule.report is not None:
        atomic_write_json(folder / "pairs.json", datamodule.report.as_data())
    return summary


def _supervised(
    run: Run, policy: Policy, stage: Stage, folder: Path, fit: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    datamodule = make_supervised(stage, run.config, run.folder)
    if stage.start == "base":
        with explained_generation(policy, stage.generation.batch_size, stage.generation.max_new_tokens):
            datamodule.build_pairs(policy, run.builder)
        _begin_again(run, policy, stage)
    summary = fit(policy, datamodule, stage, folder, run.loggers)
    if datamodule.report is not None and processes.is_first():
        atomic_write_json(folder / "dialogues.json", datamodule.report.as_data())
    return summary


def _begin_again(run: Run, policy: Policy, stage: Stage) -> None:
    """With `start=base`, once the policy as it is has made the data: take it back to where it was as this stage first began."""
    if stage.start == "base":
        first = run.folder / "stages" / f"start_of_{stage.name.rpartition('/')[2]}"
        if processes.broadcast((first / "adapter_config.json").is_file()):
            policy.take_adapter(first)
        else:
            policy.save_adapter(first)


def _relative(path: Path | None, folder: Path) -> str | None:
    if path is None:
        return None
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
