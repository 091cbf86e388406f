"""The task `evaluate`: measures a model, or a model and its adapter side by side.

    python run.py task=evaluate model=tiny_llava
    python run.py task=evaluate model=llava15_7b adapter=outputs/…/adapter evaluation=pope evaluation.pope_path=…

With an adapter the base model is measured first and the difference is paired; without one there is a single column.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from parallax.evaluation import evaluate
from parallax.evaluation.agreement import BestOf
from parallax.evaluation.harnesses import run_harness
from parallax.models import processes
from parallax.models.devices import pick_device
from parallax.preference.infusion import Describe
from parallax.records import ViewSpec
from parallax.reports.environment import write_environment
from parallax.reports.loggers import build_loggers, close_loggers, log_metrics
from parallax.reports.progress import answer_progress
from parallax.reports.results import flat_metrics, make_results, print_results, write_results
from parallax.reports.run_log import run_log
from parallax.reports.run_report import write_report
from parallax.settings.build import build
from parallax.settings.groups import Lora, Task, Trainer
from parallax.tasks.naming import group_name, run_name, tag_words
from parallax.tasks.parts import join_processes, make_policy, make_suites

if TYPE_CHECKING:
    from parallax.evaluation import Evaluation, Suite
    from parallax.models.policy import Policy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keys(Task):
    reads: ClassVar[tuple[str, ...]] = ("model", "evaluation")
    is_run: ClassVar[bool] = True
    resumes: ClassVar[bool] = True


def run(cfg: DictConfig) -> dict[str, Any]:
    """Evaluate, write `results.json`, `report.html` and `evaluations/` into the run folder, return the results."""
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    device = pick_device(str(config["trainer"]["accelerator"]))
    join_processes(Trainer.of(config["trainer"]))
    folder = processes.broadcast(Path(config["paths"]["output_dir"]))
    config["paths"]["output_dir"] = str(folder)
    adapter = config["adapter"]
    sides: dict[str, Evaluation] = {}
    with run_log(folder, number=processes.rank()):
        if processes.is_first():
            write_environment(folder, config)
        suites = make_suites(config)
        loggers: list[Any] = []

        def start_loggers() -> None:
            loggers.extend([] if loggers else _loggers(config, folder))

        try:
            if adapter and "before" in config["evaluation"]["when"]:
                base = make_policy(config, Lora(enabled=False), adapter=None, device=device)
                sides["before"] = run_suites(base, suites, config, "base", at_first=start_loggers)
                add_harnesses(sides["before"], base, config, folder / "harnesses" / "before", plain_base=True)
                del base  # one copy of the weights at a time
            lora = replace(Lora.of(config["lora"]), enabled=bool(adapter))
            policy = make_policy(config, lora, adapter=adapter, device=device)
            sides["after"] = run_suites(
                policy, suites, config, "adapter" if adapter else "model", at_first=start_loggers
            )
            if processes.is_first():
                add_harnesses(sides["after"], policy, config, folder / "harnesses" / "after", plain_base=not adapter)
                for name, evaluation in sides.items():
                    evaluation.save(folder / "evaluations" / f"{name}.json")
            seconds = sum(evaluation.meta["seconds"] for evaluation in sides.values())
            results = make_results(
                sides.get("before"), sides["after"], method="evaluate", seed=config["seed"], seconds=seconds
            )
            if processes.is_first():
                write_results(folder / "results.json", results)
            start_loggers()  # where every answer was reused
            log_metrics(loggers, flat_metrics(results), 0)
        finally:
            close_loggers(loggers)
        if not processes.is_first():
            return results
        samples = [sample for suite in suites for sample in suite.samples]
        report = write_report(folder, before=sides.get("before"), after=sides["after"], samples=samples)
        print_results(results)
        log.info("results: %s, report: %s", folder / "results.json", report)
    return results


def evaluation_view(evaluation: Mapping[str, Any], seed: int) -> ViewSpec | None:
    """The view of `evaluation.view` (a node of the `aug` group), or None for images as they are."""
    if not evaluation["view"]:
        return None

    view = build(evaluation["view"], "evaluation.view")
    return ViewSpec(view.name, view.params(), seed)


def describing(evaluation: Mapping[str, Any]) -> Describe | None:
    """The first step of describe-and-respond, where `evaluation.describe_and_respond` asks for it."""
    if not evaluation["describe_and_respond"]:
        return None

    return Describe(
        evaluation["describe_prompt"],
        max_new_tokens=int(evaluation["describe_max_new_tokens"]),
        template=evaluation["describe_template"],
    )


def best_of(evaluation: Mapping[str, Any]) -> BestOf | None:
    """Several answers and who picks among them, where `evaluation.best_of` asks for more than one."""
    if int(evaluation.get("best_of") or 1) == 1:
        return None
    judge = build(evaluation["best_by"], "evaluation.best_by")
    return BestOf(int(evaluation["best_of"]), judge, float(evaluation["best_of_temperature"]))


def run_suites(
    policy: Policy,
    suites: Sequence[Suite],
    config: Mapping[str, Any],
    what: str = "",
    *,
    shown: bool = True,
    cache: bool = True,
    at_first: Callable[[], object] = lambda: None,
) -> Evaluation:
    """`evaluate` as the configuration says, with a progress bar; answers are reused from the cache.

    Args:
        config: the resolved configuration as plain data.
        what: named in the progress bar ("before training", "base", …).
        shown: whether to show the progress bar.
        at_first: called when the first answers are there; what takes seconds to import can wait until then.
        cache: False inside `policy.reference()`, where the fingerprint does not name the weights that answer.
    """
    wanted = config["evaluation"]
    total = sum(len(suite.samples) for suite in suites)
    with answer_progress(f"evaluating {what}".strip(), total, shown=shown) as count:
        waiting = [at_first]

        def done(answers: int) -> None:
            if waiting:
                waiting.pop()()
            count(answers)

        return evaluate(
            policy,
            suites,
            batch_size=wanted["batch_size"],
            view=evaluation_view(wanted, int(config["seed"])),
            bootstrap=wanted["bootstrap"],
            max_skipped_share=config["pairs"]["max_skipped_share"],
            skipped_file=Path(config["paths"]["output_dir"]) / "skipped.jsonl",
            progress=done,
            cache_dir=config["paths"]["cache_dir"] if cache else None,
            describe=describing(wanted),
            best=best_of(wanted),
        )


def add_harnesses(
    evaluation: Evaluation, policy: Policy, config: Mapping[str, Any], folder: Path, *, plain_base: bool = False
) -> None:
    """Run the harnesses of the configuration on the policy, exported as plain transformers loads it, and add their metrics.

    The exported model is removed again. With `plain_base` the model is taken from where it lies.
    """
    wanted = config["evaluation"]["harnesses"]
    if not wanted:
        return
    path = Path(str(config["model"]["path"])).expanduser()
    model = str(path.resolve()) if path.is_dir() else str(config["model"]["path"])
    try:
        if not plain_base:
            model = str((folder / "model").resolve())
            policy.save_merged(Path(model))
        for name, node in wanted.items():
            evaluation.metrics.update(run_harness(build(node, f"evaluation.harnesses.{name}"), model, folder / name))
    finally:
        shutil.rmtree(folder / "model", ignore_errors=True)


def _loggers(config: Mapping[str, Any], folder: Path) -> list[Any]:
    return build_loggers(
        config.get("logger"),
        run_folder=folder,
        config=config,
        name=run_name(config),
        group=group_name(),
        tags=tag_words(config),
        job_type="evaluate",
    )
