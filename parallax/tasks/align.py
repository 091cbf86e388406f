"""The main job: evaluate, build pairs, tune, evaluate again, export, report.

A method is a list of stages (`stages.py`), and a round repeats them with the policy they have made. Everything a run leaves
behind is in its run folder; what other runs can use again is in the cache.
"""

from __future__ import annotations

import gc
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from parallax.evaluation.evaluation import Evaluation
from parallax.models import processes
from parallax.models.devices import pick_device
from parallax.records.skipped import skipped_counts
from parallax.reports.artifacts import note_results
from parallax.reports.environment import write_environment
from parallax.reports.examples_table import log_examples
from parallax.reports.loggers import log_metrics, log_point
from parallax.reports.results import flat_metrics, make_results, print_results, write_results
from parallax.reports.run_log import run_log
from parallax.reports.run_report import write_report
from parallax.settings.groups import Stage, Trainer
from parallax.settings.stages import PlannedStage, planned_stages
from parallax.tasks.disk_room import ALWAYS, MIB, check_room, needed_in_run_folder
from parallax.tasks.evaluate import add_harnesses, run_suites
from parallax.tasks.manifest import RunManifest, made_with
from parallax.tasks.memory_forecast import explained_generation
from parallax.tasks.parts import join_processes, make_policy, make_suites
from parallax.tasks.publish import check_publish, publish
from parallax.tasks.recipe import claim_folder
from parallax.tasks.stages import Run, StageStart, accumulate, restore_pairs, run_stage

if TYPE_CHECKING:
    from parallax.evaluation.evaluation import Evaluation
    from parallax.models.policy import Policy

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> dict[str, Any]:
    """Run the method of the configuration. Returns the content of `results.json`."""
    return align(cfg)


def align(cfg: DictConfig) -> dict[str, Any]:
    """Run all stages and return the content of `results.json`."""

    plan = planned_stages(cfg)
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    check_publish(plain)
    device = pick_device(plain["trainer"]["accelerator"])
    builder = join_processes(Trainer.of(plain["trainer"]))
    folder = processes.broadcast(claim_folder(plain) if processes.is_first() else None)
    assert folder is not None
    plain["paths"]["output_dir"] = str(folder)
    with run_log(folder, number=processes.rank()):
        if processes.is_first():
            write_environment(folder, plain)
        log.info("run folder %s", folder)
        if builder is not None:
            log.info("process %d of %d", processes.rank() + 1, processes.world_size())
        failed = True
        this: Run | None = None
        try:
            method = plain["method"]
            facts = made_with(plain)
            manifest = RunManifest(folder, method=method["name"], rounds=int(method["rounds"]), made_with=facts)
            this = Run(plain, folder, device, manifest, builder)
            this.several = len(plan) > 1
            results = _align(this, plan)
            failed = False
        finally:
            if this is not None:
                this.close_loggers(failed=failed)
        return results


def _align(this: Run, plan: list[PlannedStage]) -> dict[str, Any]:

    plain, folder = this.plain, this.folder
    adapter = Path(plain["adapter"]) if plain.get("adapter") else None
    suites = make_suites(plain) if plain["evaluation"]["when"] else []
    policy: Policy | None = None  # one copy of the weights at a time
    exported = bool(
        plain["evaluation"]["harnesses"]
    )  # programs of others are given a merged model by the first process

    def loaded(stage: Stage, *, whole: bool = False) -> Policy:
        sharded = stage.trainer.strategy == "fsdp2" and not whole
        made = make_policy(plain, stage.lora, adapter=adapter, device=this.device, sharded=sharded)
        trained = sum(parameter.numel() for _, parameter in made.trainable_parameters())
        log.info("policy %s, %s parameters trained", made.name, f"{trained:,}")
        _check_room(this, plan, trained, sum(parameter.numel() for parameter in made.model.parameters()))
        return made

    first, last = this.stage_folder(plan[0]), this.stage_folder(plan[-1])
    before = _read(first / "eval_before.json", "before", this)
    if before is None:
        policy = loaded(plan[0].stage, whole=exported)
        before = _evaluate(this, policy, suites, "before", first / "eval_before.json")
        if len(plan) == 1 and before is not None and processes.is_first():
            log_point(
                this.loggers, {f"eval/{name}": value for name, value in _values(before).items() if value is not None}, 0
            )
    rounds: list[dict[str, Any]] = []
    round_adapter = adapter
    for planned in plan:
        if planned.opens_round:
            round_adapter = adapter
        done = this.manifest.finished(planned.name)
        if done is not None:
            log.info("stage %s is done already", planned.name)
            accumulate(this, done)
            restore_pairs(this, planned, done)
            policy, adapter = None, folder / done["adapter"]
        else:
            if policy is None:
                policy = loaded(planned.stage)
            start = StageStart(adapter, round_adapter)
            adapter = run_stage(this, policy, planned, start, _watch(this, policy, suites))
            if policy.is_sharded:
                policy.release()
                policy = None  # whole again, from the adapter on disk
                gc.collect()  # hooks on its layers refer to each other
        if planned.closes_round and "after_round" in plain["evaluation"]["when"]:
            path = this.stage_folder(planned) / "eval_after_round.json"
            found = _read(path, "after_round", this)
            if found is None:
                policy = policy or loaded(planned.stage, whole=exported)
                found = _evaluate(this, policy, suites, "after_round", path)
            rounds.append({"round": planned.round, "metrics": _values(found)})
        if planned is not plan[-1] and policy is not None:
            policy = None  # the policy travels between stages as an adapter on disk
    after = _read(last / "eval_after.json", "after", this)
    if after is None and "after" in plain["evaluation"]["when"] and (suites or plain["evaluation"]["harnesses"]):
        policy = policy or loaded(plan[-1].stage, whole=exported)
        after = _evaluate(this, policy, suites, "after", last / "eval_after.json")
    if plain["export"]["merged"]:
        if policy is None or policy.is_sharded:
            policy = None
            policy = loaded(plan[-1].stage, whole=True)
        policy.save_merged(folder / "merged")
        log.info("merged model in %s", folder / "merged")
    more: dict[str, Any] = {"rounds": rounds} if rounds else {}
    results = make_results(
        before,
        after,
        pairs={**this.counts, "dropped": Counter(this.counts["dropped"]) + skipped_counts(folder / "skipped.jsonl")},
        method=plain["method"]["name"],
        seed=int(plain["seed"]),
        steps=this.steps,
        seconds=time.perf_counter() - this.started,
        stages=this.fits,
        warnings=this.warnings,
        adapter=str(adapter),
        **more,
    )
    if processes.is_first():
        write_results(folder / "results.json", results)
        log_metrics(this.loggers, flat_metrics(results))
        report = _report(this, suites, before, after)
        assert adapter is not None, "a method has at least one stage"
        publish(plain, results, adapter)
        _tell_wandb(this, suites, before, after)
        print_results(results)
        log.info("adapter in %s", adapter)
        log.info("report in %s", report)
    processes.barrier()
    return results


def _check_room(this: Run, plan: list[PlannedStage], trained: int, all_numbers: int) -> None:
    """Refuse a run that would fill the disk, before it spends hours."""

    left = [planned.stage for planned in plan if this.manifest.finished(planned.name) is None]
    needed = needed_in_run_folder(this.plain, left, trained, all_numbers)
    check_room(this.folder, needed, "paths.output_dir", " or a smaller trainer.checkpoint.keep")
    features = (
        int(this.plain["model"]["feature_cache_mib"]) * MIB if this.plain["model"]["feature_cache"] == "disk" else 0
    )
    check_room(
        this.plain["paths"]["cache_dir"], {"answers and pairs": ALWAYS, "image features": features}, "paths.cache_dir"
    )


def _watch(this: Run, policy: Policy, suites: list[Any]) -> Callable[[int], dict[str, float]] | None:
    """What `evaluation.every_n_steps` measures."""
    if not suites:
        return None

    limit = this.plain["evaluation"]["watch_limit"]
    suites = [suite.limited(limit) for suite in suites]

    def act(step: int) -> dict[str, float]:
        with explained_generation(policy, **_answering(this.plain)):
            found = run_suites(policy, suites, this.plain, f"at step {step}", shown=False, cache=False)
        answers = [(len(item.answer.split()), not item.finished) for item in found.items]
        about = {"answers/words": sum(n for n, _ in answers), "answers/cut": sum(cut for _, cut in answers)}
        values = {f"eval/{name}": metric.value for name, metric in found.metrics.items() if metric.value is not None}
        return {**values, **{name: total / max(1, len(answers)) for name, total in about.items()}}

    return act


def _read(path: Path, when: str, this: Run) -> Evaluation | None:
    """An evaluation that this run made before it was stopped."""

    return Evaluation.load(path) if when in this.plain["evaluation"]["when"] and path.is_file() else None


def _values(evaluation: Evaluation | None) -> dict[str, float | None]:
    return {name: metric.value for name, metric in evaluation.metrics.items()} if evaluation is not None else {}


def _evaluate(this: Run, policy: Policy, suites: list[Any], when: str, path: Path) -> Evaluation | None:
    if when not in this.plain["evaluation"]["when"] or not (suites or this.plain["evaluation"]["harnesses"]):
        return None

    log.info("evaluating %s", when)
    with explained_generation(policy, **_answering(this.plain)):
        evaluation = run_suites(policy, suites, this.plain, when, at_first=lambda: this.loggers)
    if processes.is_first():
        add_harnesses(evaluation, policy, this.plain, path.parent / "harnesses" / when)
        path.parent.mkdir(parents=True, exist_ok=True)
        evaluation.save(path)
    processes.barrier()
    return evaluation


def _tell_wandb(this: Run, suites: list[Any], before: Evaluation | None, after: Evaluation | None) -> None:
    """Answers before and after as a table; results as an artifact."""

    shown = this.wandb_options
    samples = [sample for suite in suites for sample in suite.samples]
    limit, side = int(shown.get("log_examples") or 0), int(shown.get("thumbnail") or 160)
    log_examples(this.loggers, before, after, samples, limit=limit, side=side)
    if shown.get("artifacts"):
        note_results(this.loggers, this.folder)


def _report(this: Run, suites: list[Any], before: Evaluation | None, after: Evaluation | None) -> Path:

    samples = [sample for suite in suites for sample in suite.samples]
    return write_report(
        this.folder, pairs=this.pairs, samples=samples, before=before, after=after, warnings=this.warnings
    )  # fmt: skip


def _answering(plain: Mapping[str, Any]) -> dict[str, int]:
    """How many answers an evaluation asks for at once, of how many tokens."""
    return {name: int(plain["evaluation"][name]) for name in ("batch_size", "max_new_tokens")}
