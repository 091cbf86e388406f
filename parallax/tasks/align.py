"""The main job: evaluate, build pairs, tune, evaluate again, export, report.

A method is a list of stages, and a stage builds its data with the policy as it is, fits, and hands the policy on as an
adapter on disk. Everything a run leaves behind is in its run folder; what other runs can use again is in the cache.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from parallax.settings.command_line import as_typed
from parallax.settings.stages import resolve_stages

if TYPE_CHECKING:
    from parallax.evaluation.evaluation import Evaluation
    from parallax.models.policy import Policy
    from parallax.records import PreferencePair

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> float:
    """Run the method of the configuration. Returns the number named by `optimized_metric`; nan if it was not measured."""
    from parallax.reports.results import lookup

    return lookup(align(cfg), str(cfg.optimized_metric))


@dataclass
class _Run:
    """What the parts of one run share."""

    plain: dict[str, Any]
    folder: Path
    device: str
    loggers: list[Any]
    started: float = field(default_factory=time.perf_counter)
    pairs: dict[str, list[PreferencePair]] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=lambda: {"built": 0, "reused": 0, "kept": 0, "dropped": {}})
    warnings: list[str] = field(default_factory=list)
    fits: dict[str, Any] = field(default_factory=dict)
    steps: int = 0


def align(cfg: DictConfig) -> dict[str, Any]:
    """Run all stages and return the content of `results.json`."""
    from parallax.reports.environment import write_environment
    from parallax.reports.loggers import build_loggers, close_loggers
    from parallax.reports.run_log import run_log
    from parallax.tasks.parts import pick_device
    from parallax.tasks.recipe import claim_folder

    stages = resolve_stages(cfg)
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    folder = claim_folder(plain)
    plain["paths"]["output_dir"] = str(folder)
    with run_log(folder):
        write_environment(folder, plain)
        log.info("run folder %s", folder)
        loggers = build_loggers(
            plain.get("logger"),
            run_folder=folder,
            config=plain,
            name=_run_name(plain),
            group=_group_name(plain),
            tags=plain.get("tags") or [],
            job_type=plain["method"]["name"],
        )
        failed = True
        try:
            this = _Run(plain, folder, pick_device(plain["trainer"]["accelerator"]), loggers)
            results = _align(this, stages)
            failed = False
        finally:
            close_loggers(loggers, failed=failed)
        return results


def _align(this: _Run, stages: list[dict[str, Any]]) -> dict[str, Any]:
    from parallax.reports.loggers import log_metrics
    from parallax.reports.results import flat_metrics, make_results, print_results, write_results
    from parallax.tasks.parts import make_policy, make_suites

    plain, folder = this.plain, this.folder
    evaluation = plain["evaluation"]
    adapter = Path(plain["adapter"]) if plain.get("adapter") else None
    policy = make_policy(plain, stages[0]["lora"], adapter=adapter, device=this.device)
    log.info(
        "policy %s, %s parameters trained", policy.name, f"{sum(p.numel() for _, p in policy.trainable_parameters()):,}"
    )

    suites = make_suites(plain) if evaluation["when"] else []
    first, last = folder / "stages" / stages[0]["name"], folder / "stages" / stages[-1]["name"]
    before = _evaluate(this, policy, suites, "before", first / "eval_before.json")
    for number, stage in enumerate(stages):
        if number:  # the policy travels between stages as an adapter on disk
            policy = make_policy(plain, stage["lora"], adapter=adapter, device=this.device)
        adapter = _run_stage(this, policy, stage, suites)
    after = _evaluate(this, policy, suites, "after", last / "eval_after.json")

    if plain["export"]["merged"]:
        policy.save_merged(folder / "merged")
        log.info("merged model in %s", folder / "merged")
    results = make_results(
        before,
        after,
        pairs=this.counts,
        method=plain["method"]["name"],
        seed=int(plain["seed"]),
        steps=this.steps,
        seconds=time.perf_counter() - this.started,
        stages=this.fits,
        warnings=this.warnings,
        adapter=str(adapter),
    )
    write_results(folder / "results.json", results)
    log_metrics(this.loggers, flat_metrics(results))
    report = _report(this, suites, before, after)
    print_results(results)
    log.info("adapter in %s", adapter)
    log.info("report in %s", report)
    return results


def _run_stage(this: _Run, policy: Policy, stage: dict[str, Any], suites: list[Any]) -> Path:
    """Build the stage's data, fit, and write the adapter. Returns the adapter's folder."""
    from parallax.records.atomic import atomic_write_json

    folder = this.folder / "stages" / stage["name"]
    folder.mkdir(parents=True, exist_ok=True)
    log.info("stage %s", stage["name"])
    stage["debug"], stage["seed"] = this.plain.get("debug") or {}, int(this.plain["seed"])
    extra: dict[str, Any] = {
        "resume_from": _checkpoint(this.plain, folder),
        "callbacks": _callbacks(this, policy, suites),
    }
    if stage["fit"] == "supervised":
        summary = _supervised(this, policy, stage, folder, extra)
    else:
        summary = _preference(this, policy, stage, folder, extra)
    adapter = folder / "adapter"
    policy.save_adapter(adapter)
    this.steps += int(summary["steps"])
    this.warnings += [warning for warning in summary["warnings"] if warning not in this.warnings]
    this.fits[stage["name"]] = {key: summary[key] for key in ("steps", "seconds", "metrics", "bad_steps", "segments")}
    atomic_write_json(folder / "fit.json", summary)
    return adapter


def _checkpoint(plain: Mapping[str, Any], folder: Path) -> Path | None:
    """The checkpoint this stage goes on from: the newest whole one in its folder, if the run is resumed."""
    from lightning_modules.callbacks.checkpoints import newest_checkpoint

    found = newest_checkpoint(folder / "checkpoints") if plain["resume"] != "never" else None
    if found is not None:
        log.info("going on from %s", found)
    return found


def _callbacks(this: _Run, policy: Policy, suites: list[Any]) -> list[Any]:
    """Evaluation between optimiser steps, where `evaluation.every_n_steps` asks for it."""
    every = this.plain["evaluation"]["every_n_steps"]
    if not every or not suites:
        return []
    from lightning_modules.callbacks.every_n_steps import EveryNSteps
    from parallax.tasks.evaluate import run_suites
    from parallax.tasks.memory_forecast import explained_generation

    def act(step: int) -> dict[str, float]:
        with explained_generation(policy, this.plain["evaluation"]):
            metrics = run_suites(policy, suites, this.plain, f"at step {step}", shown=False, cache=False).metrics
        return {f"eval/{name}": metric.value for name, metric in metrics.items() if metric.value is not None}

    return [EveryNSteps(int(every), act)]


def _preference(
    this: _Run, policy: Policy, stage: dict[str, Any], folder: Path, extra: dict[str, Any]
) -> dict[str, Any]:
    from parallax.records.atomic import atomic_write_json
    from parallax.reports.pairs_table import log_pairs
    from parallax.tasks.memory_forecast import explained_generation
    from parallax.tasks.parts import make_datamodule
    from parallax.tasks.training import fit_preference

    datamodule = make_datamodule(stage, this.plain, this.folder)
    with explained_generation(policy, stage["generation"]):
        report = datamodule.build_pairs(policy)
    atomic_write_json(folder / "pairs.json", report.as_data())
    _count(this.counts, report.as_data())
    this.pairs[stage["name"]] = datamodule.pairs
    rows = int((this.plain.get("logger") or {}).get("wandb", {}).get("log_pairs") or 0)
    if rows:
        log_pairs(this.loggers, datamodule.pairs, limit=rows)
    return fit_preference(policy, datamodule, stage, folder, this.loggers, **extra)


def _supervised(
    this: _Run, policy: Policy, stage: dict[str, Any], folder: Path, extra: dict[str, Any]
) -> dict[str, Any]:
    from hydra.utils import instantiate

    from datamodules.supervised import SupervisedDataModule
    from parallax.tasks.training import fit_supervised

    source = instantiate(stage["data"], _convert_="all")
    datamodule = SupervisedDataModule(
        source,
        trainer=stage["trainer"],
        seed=int(this.plain["seed"]),
        max_skipped_share=stage["pairs"]["max_skipped_share"],
        skipped=this.folder / "skipped.jsonl",
        limit=stage["debug"].get("limit_samples"),
    )
    summary = fit_supervised(policy, datamodule, stage, folder, this.loggers, **extra)
    if datamodule.report is not None:
        _count(this.counts, datamodule.report.as_data())
    return summary


def _evaluate(this: _Run, policy: Policy, suites: list[Any], when: str, path: Path) -> Evaluation | None:
    if when not in this.plain["evaluation"]["when"] or not suites:
        return None
    from parallax.tasks.evaluate import run_suites
    from parallax.tasks.memory_forecast import explained_generation

    log.info("evaluating %s", when)
    with explained_generation(policy, this.plain["evaluation"]):
        evaluation = run_suites(policy, suites, this.plain, when)
    path.parent.mkdir(parents=True, exist_ok=True)
    evaluation.save(path)
    return evaluation


def _report(this: _Run, suites: list[Any], before: Evaluation | None, after: Evaluation | None) -> Path:
    from parallax.reports.run_report import write_report

    samples = [sample for suite in suites for sample in suite.samples]
    return write_report(
        this.folder, pairs=this.pairs, samples=samples, before=before, after=after, warnings=this.warnings
    )  # fmt: skip


def _count(total: dict[str, Any], report: Mapping[str, Any]) -> None:
    for key in ("built", "reused", "kept"):
        total[key] += report[key]
    for reason, count in (dict(report["dropped"]) | dict(report["skipped"])).items():
        total["dropped"][reason] = total["dropped"].get(reason, 0) + count


def _run_name(plain: Mapping[str, Any]) -> str:
    """What differs from the defaults, as typed; the method's name when nothing does."""
    silent = ("hydra", "paths.", "logger", "resume")
    words = [word for word in as_typed(_typed()) if not word.startswith(silent)]
    return " ".join(words)[:120] or str(plain["method"]["name"])


def _group_name(plain: Mapping[str, Any]) -> str | None:
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return None
    experiment = HydraConfig.get().runtime.choices.get("experiment")
    return str(experiment) if experiment else None


def _typed() -> list[str]:
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
