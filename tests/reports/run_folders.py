"""Run folders as `task=align` leaves them, made without a model: a grid of settings with measurements of known worth."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from parallax.evaluation import Evaluation, EvaluationItem
from parallax.reports.results import make_results

SHAPES = {"_target_": "datamodules.shapes.source.ShapesSource", "split": "eval_habit_free", "size": 30, "seed": 0,
          "kinds": ["describe"], "start": 0}  # fmt: skip


def evaluation(wrong: int, said: str = "a red circle") -> Evaluation:
    """30 descriptions, the first `wrong` of which name an object that is not there, and 30 short answers."""
    items = []
    for i in range(30):
        bad = float(i < wrong)
        text = f"{said} and a ghost" if bad else said
        scores = {"chair_i": (bad, 2.0), "recall": (2.0 - bad, 2.0)}
        sample = f"eval_habit_free:0:{i}:describe"
        items.append(
            EvaluationItem("chair", sample, str(i), "describe", "What is there?", "red circle", text, True, scores)
        )
        right = {"accuracy": (1 - bad, 1.0)}
        items.append(EvaluationItem("accuracy", f"a{i}", str(i), "colour", "Which colour?", "red", "red", True, right))
    return Evaluation.from_items(items, bootstrap_draws=100)


def write_run(
    folder: Path,
    settings: Mapping[str, Any],
    wrong: int,
    *,
    before: int = 15,
    typed: tuple[str, ...] = (),
    **choices: str,
) -> Path:
    """A finished run whose descriptions are wrong `wrong` times of 30. `settings` are dotted keys of its configuration."""
    config: dict[str, Any] = {
        "method": {"name": "seva", "rounds": 1}, "model": {"name": "tiny", "path": "none"}, "seed": 0,
        "loss": {"_target_": "lightning_modules.objectives.base.DPO", "beta": 0.1}, "data": {**SHAPES},
        "aug": {"noise_steps": 500}, "evaluation": {"suites": {"chair": {"name": "chair", "samples": SHAPES}}},
        "paths": {"output_dir": str(folder)},
    }  # fmt: skip
    for key, value in settings.items():
        node = config
        *above, last = key.split(".")
        for name in above:
            node = node.setdefault(name, {})
        node[last] = value
    (folder / ".hydra").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(typed)))
    chosen = {"loss": "dpo", "aug": "diffusion", **choices}
    (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump({"hydra": {"runtime": {"choices": chosen}}}))
    stage = folder / "stages" / "align"
    stage.mkdir(parents=True)
    rows = [f"{step},{0.7 / (step + 1)},{step * 0.01 * (30 - wrong)}" for step in range(8)]
    (stage / "metrics.csv").write_text("\n".join(["step,train/loss,train/rewards/margins", *rows]) + "\n")
    old, new = evaluation(before), evaluation(wrong)
    old.save(stage / "eval_before.json")
    new.save(stage / "eval_after.json")
    results = make_results(
        old, new, pairs={"kept": 100 - wrong, "dropped": {"equal": wrong}}, method="seva", seconds=9.0
    )
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "report.html").write_text("<p>its report</p>")
    return folder


def write_grid(folder: Path) -> Path:
    """Nine runs below `folder`: noise steps 200, 500, 800 with β 0.05, 0.1, 0.3; 500 with 0.1 is the best."""
    number = 0
    for steps, at_steps in ((200, 6), (500, 0), (800, 9)):
        for beta, at_beta in ((0.05, 2), (0.1, 1), (0.3, 4)):
            own = {"aug.noise_steps": steps, "loss.beta": beta, "stages.align.proposer.view.noise_steps": steps}
            typed = (f"aug.noise_steps={steps}", f"loss.beta={beta}")
            write_run(folder / str(number), own, at_steps + at_beta, typed=typed)
            number += 1
    return folder
