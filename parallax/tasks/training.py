"""Fitting one stage: from its configuration and its pairs to a tuned policy.

`fit_stage` is what a stage calls. It knows how often pairs are built again, how a stopped fit goes
on, and who watches; what one step does is `DPOModule`'s and `SFTModule`'s matter.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl

from datamodules.preference import PreferenceDataModule
from lightning_modules.callbacks import (
    BestStep,
    EveryNSteps,
    FindBatchSize,
    FitProgress,
    RewardHealth,
    StepCheckpoints,
    newest_checkpoint,
)
from lightning_modules.callbacks.checkpoints import checkpoints_in, remove_later_than, step_of
from lightning_modules.dpo import DPOModule
from lightning_modules.sft import SFTModule
from lightning_modules.step_stream import Segment, StepStream, segments_of
from lightning_modules.trainer import joined_processes, make_trainer
from parallax.models import processes
from parallax.models.memory.advice import explained
from parallax.reports.metric_names import direction
from parallax.reports.metrics_csv import MetricsCsv, late_mean, read_metrics
from parallax.reports.staged_logger import StagedLogger
from parallax.settings.build import build
from parallax.settings.groups import Stage
from parallax.tasks.found_batch_size import FoundBatchSize
from parallax.tasks.memory_forecast import Forecast, explained_generation

if TYPE_CHECKING:
    from datamodules.supervised import SupervisedDataModule
    from lightning_modules.tuning import TuningModule
    from parallax.models.policy import Policy

__all__ = ["fit_stage", "make_trainer", "total_steps"]

log = logging.getLogger(__name__)


def fit_stage(
    policy: Policy,
    datamodule: PreferenceDataModule | SupervisedDataModule,
    stage: Stage,
    folder: Path | str,
    loggers: Sequence[Any] = (),
    resume_from: Path | str | None = None,
    *,
    callbacks: Sequence[Any] = (),
) -> dict[str, Any]:
    """Fit `policy`, in place, to preference pairs, or to given answers (cross-entropy on all assistant turns).

    Args:
        policy: the policy as the stage begins.
        datamodule: builds the pairs or dialogues and brings the steps. Those it already holds are used.
        stage: what the method says of it, and the groups as it uses them.
        folder: the stage's folder; checkpoints and metrics.csv go there.
        loggers: Lightning loggers of the run.
        resume_from: a checkpoint of this stage to go on from, or None.
        callbacks: further Lightning callbacks.

    Returns:
        Plain data: steps, total_steps, segments, portions (of a large file), seconds, metrics (of the last step),
        late_margin (mean reward margin over the last quarter of the steps, or None), warnings (sentences), bad_steps,
        pair_reports (one per build), references (pairs whose log-probs were computed and reused), padding (of the first
        epoch's micro-batches),
        checkpoint (path of the last one), memory (the forecast, bytes), micro_batch (what trainer.find_batch_size
        found, or None). Raises `NotEnoughMemory`, with advice, when an allocation fails.
    """
    of_pairs = isinstance(datamodule, PreferenceDataModule)
    objective = build(stage.loss, "loss") if of_pairs else None

    def module(total: int) -> TuningModule:
        settings: dict[str, Any] = {
            "total_steps": total,
            "clip": stage.trainer.gradient_clip_val,
            "activation_checkpointing": stage.trainer.activation_checkpointing is True,
            "max_bad_steps": stage.trainer.max_bad_steps,
        }
        if objective is None:
            return SFTModule(policy, stage.optim, seed=stage.seed, **settings)
        return DPOModule(
            policy, objective, stage.optim, reference_mode=stage.reference.mode,
            rejected_scorer=stage.pairs.rejected_scorer, **settings,
        )  # fmt: skip

    fit = _Fit(policy, datamodule, stage, Path(folder), module, stage.pairs.refresh if of_pairs else "never")
    return fit.run(loggers, callbacks, Path(resume_from) if resume_from is not None else None)


def checkpoint_in(folder: Path) -> Path | None:
    """The checkpoint that a stage goes on from: the newest whole one in its folder, as the first process sees it."""
    found = processes.broadcast(newest_checkpoint(folder / "checkpoints"))
    if found is not None:
        log.info("going on from %s", found)
    return found


def between_steps(
    evaluation: Mapping[str, Any], evaluate: Callable[[int], dict[str, float]] | None
) -> list[pl.Callback]:
    """Evaluation between optimiser steps, where `evaluation.every_n_steps` asks for it."""
    every, monitor = evaluation["every_n_steps"], evaluation["monitor"]
    if not every or evaluate is None:
        return []
    if monitor is None:
        return [EveryNSteps(int(every), evaluate)]
    return [BestStep(int(every), evaluate, f"eval/{monitor}", direction(str(monitor)) or 1, evaluation["patience"])]


def total_steps(stage: Stage, steps_per_epoch: int) -> int:
    """Optimiser steps of a stage: passes over the pairs times the steps of one, at most max_steps; `debug` may say otherwise."""
    trainer, debug = stage.trainer, stage.debug
    limits = [limit for limit in (trainer.max_steps, debug.max_steps) if limit is not None and limit != -1]
    return min([(debug.epochs or trainer.max_epochs) * steps_per_epoch, *limits])


class _Fit:
    """One fit, in as many segments as the pairs are built anew."""

    def __init__(
        self,
        policy: Policy,
        datamodule: PreferenceDataModule | SupervisedDataModule,
        stage: Stage,
        folder: Path,
        make_module: Callable[[int], TuningModule],
        refresh: str,
    ) -> None:
        self.policy, self.datamodule, self.stage, self.folder = policy, datamodule, stage, folder
        self.settings = stage.trainer
        self.make_module, self.refresh = make_module, refresh
        self.reports: list[dict[str, Any]] = []
        self.home = policy.device

    def run(
        self, loggers: Sequence[StagedLogger], callbacks: Sequence[pl.Callback], resume: Path | None
    ) -> dict[str, Any]:
        started, done = time.perf_counter(), step_of(resume) if resume is not None else 0
        if processes.is_first():
            remove_later_than(self.folder / "checkpoints", done)
        if not self.datamodule.pairs:
            self._build()
        else:
            self._note_report()
        self.portions = self.datamodule.steps_of_portions()
        total = total_steps(self.stage, sum(self.portions))
        segments = segments_of(self.refresh, self.portions, total)
        health = RewardHealth(total)
        keeper = StepCheckpoints(self.folder / "checkpoints", **asdict(self.settings.checkpoint))
        progress = FitProgress(self.stage.name, total, every_n_steps=self.settings.print_every_n_steps)
        trainer = self._trainer(_with_csv(loggers, self.folder), [*callbacks, health, progress, keeper], total)
        module = self.make_module(total)
        forecast = Forecast(self.policy, self.datamodule, self.stage, trainer, module)
        if self.settings.activation_checkpointing == "auto":
            module.activation_checkpointing = forecast.recomputes()
        self.found = FoundBatchSize(self.settings, self.folder, forecast, resuming=resume is not None)
        if trainer.global_rank == 0:
            forecast.tell()
        best = next((callback for callback in callbacks if isinstance(callback, BestStep)), None)
        try:
            with explained("training", forecast.advice):
                for segment in segments:
                    if done < segment.stop and not (best is not None and best.stopped):
                        self._fit_segment(segment, trainer, module, keeper, max(done, segment.start), resume)
                        resume = None
            if resume is not None:  # it was the last step already
                states = module.load_trained(resume)
                if health.state_key in states:
                    health.load_state_dict(states[health.state_key])
            chosen = best.take_best(module, keeper, max(done, trainer.global_step)) if best is not None else None
        finally:
            module.on_train_end()
            self.policy.model.to(self.home)
        newest = keeper.newest()
        return {
            "steps": max(done, trainer.global_step),
            "total_steps": total,
            "segments": len(segments),
            "portions": len(self.portions),
            "seconds": time.perf_counter() - started,
            "metrics": dict(module.last_metrics),
            "late_margin": late_mean(read_metrics(self.folder / "metrics.csv"), "train/rewards/margins"),
            "warnings": list(health.warnings.values()),
            "bad_steps": [asdict(bad) for bad in module.bad_steps],
            "pair_reports": self.reports,
            "references": self.datamodule.references,
            "padding": padding.as_data() if (padding := self.datamodule.padding) else None,
            "checkpoint": str(newest) if newest else None,
            "best": chosen,
            "memory": forecast.as_data(),
            "micro_batch": self.found.as_data(),
        }

    def _fit_segment(
        self,
        segment: Segment,
        trainer: pl.Trainer,
        module: TuningModule,
        keeper: StepCheckpoints,
        start: int,
        resume: Path | None,
    ) -> None:
        """Train from step `start` to the segment's end; with `resume`, weights and optimiser come from that checkpoint."""
        if len(self.portions) > 1 and segment.number > 0:
            self.datamodule.portion = segment.number % len(self.portions)
            self._build()
        elif segment.number > 0:
            self._pairs_of(segment, trainer, module, keeper, resume)
        self.datamodule.trainer = trainer  # tells it its process
        trainer.fit_loop.epoch_loop.max_steps = segment.stop
        passing = (_Reference, FindBatchSize)
        trainer.callbacks[:] = [c for c in trainer.callbacks if not isinstance(c, passing)]  # type: ignore[attr-defined]
        search = self.found.search()
        cached = (
            isinstance(module, DPOModule) and module.objective.needs_reference and module.reference_mode == "cached"
        )
        if cached:
            assert isinstance(self.datamodule, PreferenceDataModule)
            reference = _Reference(self.datamodule, self.policy)
            if self.settings.strategy == "deepspeed":  # once it has the weights nobody else computes with them
                reference.fill(joined_processes(self.settings, self.folder) or trainer)
            elif trainer.world_size == 1 and search is None:
                reference.fill(trainer)
            else:
                trainer.callbacks.insert(0, reference)  # type: ignore[attr-defined]
        elif isinstance(self.datamodule, PreferenceDataModule):
            self.datamodule.reference_mode = "live"  # its batches need no reference log-probs
        if search is not None:  # before the reference is scored, which takes as many rows at a time
            trainer.callbacks.insert(0, search)  # type: ignore[attr-defined]
        stream = StepStream(
            self.datamodule.epoch_loader,
            self.datamodule.steps_per_epoch(),
            start=start,
            stop=segment.stop,
            origin=segment.start,
            first_epoch=segment.number,
        )
        trainer.fit(module, train_dataloaders=stream, ckpt_path=resume, weights_only=True if resume else None)
        self.policy.model.to(self.home)  # Lightning leaves everything on the CPU

    def _pairs_of(
        self,
        segment: Segment,
        trainer: pl.Trainer,
        module: TuningModule,
        keeper: StepCheckpoints,
        resume: Path | None,
    ) -> None:
        """Build the segment's pairs with the policy as it was when the segment began.

        A checkpoint of that moment is kept beside the others: a fit that is resumed in the middle of the segment takes the
        weights from there, finds all its answers in the cache, and so has the same pairs.
        """
        if resume is not None and step_of(resume) > segment.start:
            boundary = next((p for p in checkpoints_in(keeper.folder, "segment") if step_of(p) == segment.start), None)
            if boundary is None:
                raise FileNotFoundError(
                    f"{keeper.folder} has no segment-{segment.start:06d}.ckpt, the state in which the pairs of step "
                    f"{step_of(resume)} were built; resume from a checkpoint of step {segment.start} or before"
                )
            module.load_trained(boundary)
        elif resume is not None:
            module.load_trained(resume)
        if processes.is_first() and (resume is None or step_of(resume) == segment.start):
            keeper.copy(resume or keeper.folder / f"step-{segment.start:06d}.ckpt", "segment")
        processes.barrier()
        self._build()

    def _build(self) -> None:
        """Build the pairs with the policy as it is; several processes share the work on Lightning's predict loop.

        In the middle of a fit with sharded weights each process has a whole copy for that long.
        """
        trainer = joined_processes(self.settings, self.folder)
        wanted = self.stage.generation
        with self.policy.gathered(), explained_generation(self.policy, wanted.batch_size, wanted.max_new_tokens):
            self.datamodule.build_pairs(self.policy, trainer)
        self._note_report()

    def _note_report(self) -> None:
        if self.datamodule.report is not None:
            self.reports.append(self.datamodule.report.as_data())

    def _trainer(self, loggers: Sequence[StagedLogger], callbacks: Sequence[pl.Callback], max_steps: int) -> pl.Trainer:
        return make_trainer(
            self.settings,
            folder=self.folder,
            loggers=loggers,
            callbacks=callbacks,
            max_steps=max_steps,
            weights=self.policy.precision,
            profiler=self.stage.debug.profiler if max_steps > 0 else None,
        )


class _Reference(pl.Callback):
    """Has the reference log-probs filled in, in the precision that training uses, once all processes are there."""

    def __init__(self, datamodule: PreferenceDataModule, policy: Policy) -> None:
        self.datamodule, self.policy = datamodule, policy

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.fill(trainer)

    def fill(self, trainer: pl.Trainer) -> None:
        with trainer.precision_plugin.forward_context():
            self.datamodule.fill_reference(self.policy, trainer=trainer)


def _with_csv(loggers: Sequence[StagedLogger], folder: Path) -> list[StagedLogger]:
    """The run's loggers, and the stage's own metrics.csv."""
    csv = MetricsCsv(folder)
    return [*loggers, csv] if csv.path not in [logger.path for logger in loggers] else list(loggers)
