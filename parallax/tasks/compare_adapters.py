"""Two adapters (or the base model and one) on the same questions: paired differences, sign tests, a judge's preference.

    python run.py task=compare_adapters adapter=<first> task.other=<second> evaluation=[pope,chair] …
    python run.py task=compare_adapters task.other=<adapter> task.win_rate=true evaluation.judge.url=…   # against the base

Written are `comparison.json`, both evaluations and their answers, and `results.json` with the first side as `before`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from parallax.evaluation.judged.win_rate import win_rate
from parallax.evaluation.over_seeds import sign_tests
from parallax.models.devices import pick_device
from parallax.records.atomic import atomic_write_json
from parallax.records.plain_text import terminal
from parallax.reports.environment import write_environment
from parallax.reports.results import is_minor, make_results, metric_of, metric_order, show, show_parts, write_results
from parallax.reports.run_log import run_log
from parallax.reports.run_report import write_report
from parallax.settings.build import build
from parallax.settings.groups import Lora, Task
from parallax.tasks.evaluate import run_suites
from parallax.tasks.parts import make_policy, make_suites

if TYPE_CHECKING:
    from rich.table import Table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keys(Task):
    reads: ClassVar[tuple[str, ...]] = ("model", "evaluation")

    other: str
    win_rate: bool
    win_rate_instructions: str


def run(cfg: DictConfig) -> dict[str, Any]:
    """Evaluate both, compare, write, print; returns the results."""
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    folder, task = Path(config["paths"]["output_dir"]), config["task"]
    device = pick_device(str(config["trainer"]["accelerator"]))
    with run_log(folder):
        write_environment(folder, config)
        suites = make_suites(config)
        sides = []
        for name, adapter in (("first", config["adapter"]), ("second", task["other"])):
            lora = replace(Lora.of(config["lora"]), enabled=bool(adapter))
            policy = make_policy(config, lora, adapter=adapter, device=device)
            sides.append(run_suites(policy, suites, config, f"{name} ({adapter or 'base model'})"))
            sides[-1].save(folder / "evaluations" / f"{name}.json")
            del policy  # one copy of the weights at a time
        first, second = sides
        seconds = sum(side.meta["seconds"] for side in sides)
        results = make_results(first, second, method="compare_adapters", seed=config["seed"], seconds=seconds)
        results["sign_tests"] = {name: test.as_data() for name, test in sign_tests(first, second).items()}
        if task["win_rate"]:
            judge = build(config["evaluation"]["judge"], "evaluation.judge")
            results["win_rate"] = win_rate(first, second, judge, task["win_rate_instructions"]).as_data()
        write_results(folder / "results.json", results)
        names = {"first": str(config["adapter"] or "base model"), "second": str(task["other"])}
        atomic_write_json(folder / "comparison.json", {**names, **results})
        samples = [sample for suite in suites for sample in suite.samples]
        write_report(folder, before=first, after=second, samples=samples)
        console = terminal()
        console.print(comparison_table(results))
        for line in (f"first: {names['first']}", f"second: {names['second']}", *_win_rate_words(results)):
            console.print(line, highlight=False, markup=False)
        log.info("comparison in %s", folder / "comparison.json")
    return results


def comparison_table(results: dict[str, Any]) -> Table:
    """Metric, both sides, paired difference with its interval, and the sign test over images."""
    from rich.table import Table

    table = Table(title="Paired comparison, 95 % intervals", title_justify="left", header_style="bold", pad_edge=False)
    for heading in ("", "first", "second", "second − first", "images up : down : equal", "sign test p"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name in metric_order(results):
        test = results["sign_tests"].get(name)
        if is_minor(name) or test is None:
            continue
        change = metric_of(results["difference"].get(name))
        table.add_row(
            name,
            *(show_parts(metric_of(results[side].get(name)), name=name)[0] for side in ("before", "after")),
            show(change, points=True, name=name),
            f"{test['higher']} : {test['lower']} : {test['equal']}",
            "–" if test["p"] is None else f"{test['p']:.3g}",
            style="bold" if change.excludes_zero else "",
        )
    return table


def _win_rate_words(results: dict[str, Any]) -> list[str]:
    found = results.get("win_rate")
    if not found:
        return []
    if found["share"] is None:
        return ["The judge preferred neither side anywhere."]
    return [
        f"The judge prefers the second in {found['share']:.1%} of {found['wins'] + found['losses']} decided comparisons (95 % "
        f"interval {found['low']:.1%} to {found['high']:.1%}, sign test p {found['p']:.3g}); {found['ties']} ties, "
        f"{found['same']} equal answers, {found['failed']} without a verdict"
    ]
