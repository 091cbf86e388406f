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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from parallax.evaluation.evaluation import Evaluation
from parallax.models import processes
from parallax.models.devices import pick_device
from parallax.records.skipped import skipped_counts
from parallax.reports.artifacts import note_results
from parallax.reports.environment import write_environment
from parallax.reports.examples_table import log_examples
from parallax.reports.loggers import log_metrics, log_point
from parallax.reports.model_card import check_publish, publish
from parallax.reports.results import flat_metrics, make_results, print_results, write_results
from parallax.reports.run_log import run_log
from parallax.reports.run_report import write_report
from parallax.settings.groups import Stage, Task, Trainer
from parallax.settings.stages import PlannedStage, planned_stages
from parallax.tasks.conversation_trial import refuse_conversations
from parallax.tasks.disk_room import ALWAYS, MIB, check_room, needed_in_run_folder
from parallax.tasks.evaluate import add_harnesses, run_suites
from parallax.tasks.memory_forecast import explained_generation
from parallax.tasks.parts import join_processes, make_policy, make_suites
from parallax.tasks.run_state import RunManifest, made_with
from parallax.tasks.stages import Run, StageStart, accumulate, restore_pairs, run_stage

if TYPE_CHECKING:
    from parallax.models.policy import Policy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keys(Task):
    reads: ClassVar[tuple[str, ...]] = ("pairs", "data", "model", "evaluation")
    is_run: ClassVar[bool] = True
    resumes: ClassVar[bool] = True


def run(cfg: DictConfig) -> dict[str, Any]:
    """Run all stages of the method and return the content of `results.json`."""
    plan = planned_stages(cfg)
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    check_publish(config)
    device = pick_device(config["trainer"]["accelerator"])
    builder = join_processes(Trainer.of(config["trainer"]))
    folder = processes.broadcast(Path(config["paths"]["output_dir"]))
    config["paths"]["output_dir"] = str(folder)
    with run_log(folder, number=processes.rank()):
        if processes.is_first():
            write_environment(folder, config)
        log.info("run folder %s", folder)
        if builder is not None:
            log.info("process %d of %d", processes.rank() + 1, processes.world_size())
        failed = True
        run: Run | None = None
        try:
            method = config["method"]
            facts = made_with(config)
            manifest = RunManifest(folder, method=method["name"], rounds=int(method["rounds"]), made_with=facts)
            run = Run(config, folder, device, manifest, builder)
            run.several = len(plan) > 1
            results = _align(run, plan)
            failed = False
        finally:
            if run is not None:
                run.close_loggers(failed=failed)
        return results


def _align(run: Run, plan: list[PlannedStage]) -> dict[str, Any]:
    config, folder = run.config, run.folder
    adapter = Path(config["adapter"]) if config["adapter"] else None
    suites = make_suites(config) if config["evaluation"]["when"] else []
    policy: Policy | None = None  # one copy of the weights at a time
    exported = bool(
        config["evaluation"]["harnesses"]
    )  # programs of others are given a merged model by the first process

    def loaded(stage: Stage, *, whole: bool = False) -> Policy:
        sharded = stage.trainer.strategy == "fsdp2" and not whole
        made = make_policy(config, stage.lora, adapter=adapter, device=run.device, sharded=sharded)
        trained = sum(parameter.numel() for _, parameter in made.trainable_parameters())
        log.info("policy %s, %s parameters trained", made.name, f"{trained:,}")
        _check_room(run, plan, trained, sum(parameter.numel() for parameter in made.model.parameters()))
        return made

    if (todo := next((one for one in plan if run.manifest.finished(one.name) is None), None)) is not None:
        refuse_conversations(todo.stage, config)
    first, last = run.stage_folder(plan[0]), run.stage_folder(plan[-1])
    before = _read(first / "eval_before.json", "before", run)
    if before is None:
        policy = loaded(plan[0].stage, whole=exported)
        before = _evaluate(run, policy, suites, "before", first / "eval_before.json")
        if len(plan) == 1 and before is not None and processes.is_first():
            log_point(
                run.loggers, {f"eval/{name}": value for name, value in _values(before).items() if value is not None}, 0
            )
    rounds: list[dict[str, Any]] = []
    round_adapter = adapter
    for planned in plan:
        if planned.opens_round:
            round_adapter = adapter
        done = run.manifest.finished(planned.name)
        if done is not None:
            log.info("stage %s is done already", planned.name)
            accumulate(run, done)
            restore_pairs(run, planned, done)
            policy, adapter = None, folder / done["adapter"]
        else:
            if policy is None:
                policy = loaded(planned.stage)
            start = StageStart(adapter, round_adapter)
            adapter = run_stage(run, policy, planned, start, _watch(run, policy, suites))
            if policy.is_sharded:
                policy.release()
                policy = None  # whole again, from the adapter on disk
                gc.collect()  # hooks on its layers refer to each other
        if planned.closes_round and "after_round" in config["evaluation"]["when"]:
            path = run.stage_folder(planned) / "eval_after_round.json"
            found = _read(path, "after_round", run)
            if found is None:
                policy = policy or loaded(planned.stage, whole=exported)
                found = _evaluate(run, policy, suites, "after_round", path)
            rounds.append({"round": planned.round, "metrics": _values(found)})
        if planned is not plan[-1] and policy is not None:
            policy = None  # the policy travels between stages as an adapter on disk
    after = _read(last / "eval_after.json", "after", run)
    if after is None and "after" in config["evaluation"]["when"] and (suites or config["evaluation"]["harnesses"]):
        policy = policy or loaded(plan[-1].stage, whole=exported)
        after = _evaluate(run, policy, suites, "after", last / "eval_after.json")
    if config["export"]["merged"]:
        if policy is None or policy.is_sharded:
            policy = None
            policy = loaded(plan[-1].stage, whole=True)
        policy.save_merged(folder / "merged")
        log.info("merged model in %s", folder / "merged")
    more: dict[str, Any] = {"rounds": rounds} if rounds else {}
    results = make_results(
        before,
        after,
        pairs={**run.counts, "dropped": Counter(run.counts["dropped"]) + skipped_counts(folder / "skipped.jsonl")},
        method=config["method"]["name"],
        seed=int(config["seed"]),
        steps=run.steps,
        seconds=time.perf_counter() - run.started,
        stages=run.fits,
        warnings=run.warnings,
        adapter=str(adapter),
        **more,
    )
    if processes.is_first():
        write_results(folder / "results.json", results)
        log_metrics(run.loggers, flat_metrics(results))
        report = _report(run, suites, before, after)
        assert adapter is not None, "a method has at least one stage"
        publish(config, results, adapter)
        _tell_wandb(run, suites, before, after)
        print_results(results)
        log.info("adapter in %s", adapter)
        log.info("report in %s", report)
    processes.barrier()
    return results


def _check_room(run: Run, plan: list[PlannedStage], trained: int, all_numbers: int) -> None:
    """Refuse a run that would fill the disk, before it spends hours."""
    left = [planned.stage for planned in plan if run.manifest.finished(planned.name) is None]
    needed = needed_in_run_folder(run.config, left, trained, all_numbers)
    check_room(run.folder, needed, "paths.output_dir", " or a smaller trainer.checkpoint.keep")
    features = (
        int(run.config["model"]["feature_cache_mib"]) * MIB if run.config["model"]["feature_cache"] == "disk" else 0
    )
    check_room(
        run.config["paths"]["cache_dir"], {"answers and pairs": ALWAYS, "image features": features}, "paths.cache_dir"
    )


def _watch(run: Run, policy: Policy, suites: list[Any]) -> Callable[[int], dict[str, float]] | None:
    """What `evaluation.every_n_steps` measures."""
    if not suites:
        return None

    limit = run.config["evaluation"]["watch_limit"]
    suites = [suite.limited(limit) for suite in suites]

    def act(step: int) -> dict[str, float]:
        with explained_generation(policy, **_answering(run.config)):
            found = run_suites(policy, suites, run.config, f"at step {step}", shown=False, cache=False)
        answers = [(len(item.answer.split()), not item.finished) for item in found.items]
        about = {"answers/words": sum(n for n, _ in answers), "answers/cut": sum(cut for _, cut in answers)}
        values = {f"eval/{name}": metric.value for name, metric in found.metrics.items() if metric.value is not None}
        return {**values, **{name: total / max(1, len(answers)) for name, total in about.items()}}

    return act


def _read(path: Path, when: str, run: Run) -> Evaluation | None:
    """An evaluation that this run made before it was stopped."""
    return Evaluation.load(path) if when in run.config["evaluation"]["when"] and path.is_file() else None


def _values(evaluation: Evaluation | None) -> dict[str, float | None]:
    return {name: metric.value for name, metric in evaluation.metrics.items()} if evaluation is not None else {}


def _evaluate(run: Run, policy: Policy, suites: list[Any], when: str, path: Path) -> Evaluation | None:
    if when not in run.config["evaluation"]["when"] or not (suites or run.config["evaluation"]["harnesses"]):
        return None

    log.info("evaluating %s", when)
    with explained_generation(policy, **_answering(run.config)):
        evaluation = run_suites(policy, suites, run.config, when, at_first=lambda: run.loggers)
    if processes.is_first():
        add_harnesses(evaluation, policy, run.config, path.parent / "harnesses" / when)
        path.parent.mkdir(parents=True, exist_ok=True)
        evaluation.save(path)
    processes.barrier()
    return evaluation


def _tell_wandb(run: Run, suites: list[Any], before: Evaluation | None, after: Evaluation | None) -> None:
    """Answers before and after as a table; results as an artifact."""
    if run.wandb is None:
        return
    samples = [sample for suite in suites for sample in suite.samples]
    log_examples(run.loggers, before, after, samples, limit=run.wandb.log_examples, side=run.wandb.thumbnail)
    if run.wandb.artifacts:
        note_results(run.loggers, run.folder)


def _report(run: Run, suites: list[Any], before: Evaluation | None, after: Evaluation | None) -> Path:
    samples = [sample for suite in suites for sample in suite.samples]
    return write_report(
        run.folder, pairs=run.pairs, samples=samples, before=before, after=after, warnings=run.warnings
    )  # fmt: skip


def _answering(config: Mapping[str, Any]) -> dict[str, int]:
    """How many answers an evaluation asks for at once, of how many tokens."""
    return {name: int(config["evaluation"][name]) for name in ("batch_size", "max_new_tokens")}
