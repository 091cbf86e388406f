"""What must be given and must be there: mandatory values, files and folders."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from parallax.settings.comments import meaning_of
from parallax.settings.dashboard_keys import dashboard_problems
from parallax.settings.extras import install
from parallax.settings.left_by_runs import any_run, is_pair_set, pair_pointers
from parallax.settings.paths_there import place_problem
from parallax.settings.sweep_file import sweep_problems
from parallax.settings.tasks import task_fact


def missing_problems(plain: dict[str, Any], absent: list[str], places: dict[str, tuple[str, str]]) -> dict[str, str]:
    """Problems with values that are not given (`???`) and with what must be there and is not, by key.

    `places`: key → (path, kind), as `Walk` found them.
    """
    task = str(plain.get("task", {}).get("name"))
    reads = task_fact(task, "reads")
    problems: dict[str, str] = {}
    for key in absent:
        if _is_not_read(key, plain, reads):
            continue
        meaning = meaning_of(key, plain)
        problems[key] = f"{key} is not given{f': {meaning}' if meaning else ''}. Add {key}=… to the command."
    for key, (path, kind) in places.items():
        if (
            key not in absent
            and _looks_at(key, plain, task, reads)
            and (problem := place_problem(key, path, kind, plain))
        ):
            problems[key] = problem
    if "evaluation" in reads:
        problems |= _judge_problems(plain.get("evaluation") or {})
    if "model" in reads:
        problems |= _adapter_problems(plain.get("adapter"), task)
    if task == "compare_adapters":
        problems |= _comparison_problems(plain, absent)
    problems |= _folders_problems(plain, task)
    problems |= sweep_problems(plain)
    problems |= dashboard_problems(plain)
    problems |= _package_problems(plain)
    resume = plain.get("resume")
    if isinstance(resume, str) and resume not in ("auto", "never") and not Path(resume).is_dir():
        problems["resume"] = f"resume={resume} is neither auto nor never nor a run folder that exists."
    return problems


def _is_not_read(key: str, plain: dict[str, Any], reads: Sequence[str]) -> bool:
    """Whether this run can do without the value: data of a task that reads none, or of a stage that does not run."""
    stage = re.match(r"stages\.([^.]+)\.", key)
    if (key.startswith("data.") or stage is not None) and "data" not in reads:
        return True
    return stage is not None and ".data." in key and stage[1] not in plain.get("method", {}).get("stages", [])


def _looks_at(key: str, plain: dict[str, Any], task: str, reads: Sequence[str]) -> bool:
    """Whether this task reads what a path of this key leads to."""
    group, stage = key.split(".")[0], re.match(r"stages\.([^.]+)\.", key)
    if stage is not None:
        return "pairs" in reads and stage[1] in plain["method"]["stages"]
    if key.startswith("judge.image_text.") and not plain["judge"].get("image_weight"):
        return False
    if group == "data" and task_fact(task, "tells_what_is_missing"):
        return False
    return (group if group in ("data", "evaluation", "model") else "pairs") in reads


def _judge_problems(evaluation: dict[str, Any]) -> dict[str, str]:
    """A judge that is needed and has no address."""
    problems = {}
    suites = evaluation.get("suites")
    named = suites.items() if isinstance(suites, dict) else ()
    judged = [name for name, suite in named if isinstance(suite, dict) and "judge" in suite]
    if judged and (evaluation.get("judge") or {}).get("url") is None:
        problems["evaluation.judge.url"] = (
            f"evaluation.judge.url is not given, and a judge grades {', '.join(judged)}. Add the address of an OpenAI-compatible "
            "API, such as evaluation.judge.url=http://localhost:8000/v1 evaluation.judge.model=<name>."
        )
    return problems


def _comparison_problems(plain: dict[str, Any], absent: list[str]) -> dict[str, str]:
    problems = {}
    other = plain["task"].get("other")
    if "task.other" not in absent and not (Path(str(other)) / "adapter_config.json").is_file():
        problems["task.other"] = f"task.other={other} is no folder with a PEFT adapter in it (no adapter_config.json)."
    if plain["task"].get("win_rate") and (plain["evaluation"].get("judge") or {}).get("url") is None:
        problems["evaluation.judge.url"] = (
            "evaluation.judge.url is not given, and task.win_rate=true asks a judge. Add the address of an OpenAI-compatible API."
        )
    return problems


def _folders_problems(plain: dict[str, Any], task: str) -> dict[str, str]:
    """`run` and `runs` go with the tasks that read them."""
    problems = {}
    for key, reader, example in (
        ("runs", "compare", "runs=<folder of runs> or runs=[<folder>,<folder>]"),
        ("run", "gallery", "run=<run folder>"),
    ):
        if task == reader and not plain.get(key):
            problems[key] = f"task={reader} needs something to show: add {example} to the command."
        elif task == reader:
            paths = [plain[key]] if isinstance(plain[key], str) else plain[key]
            gone = [path for path in paths if not glob.glob(str(Path(path).expanduser())) and not Path(path).exists()]
            if gone:
                problems[key] = (
                    f"{key}={gone[0]} is not there (looked from {Path.cwd()}): add {example} to the command."
                )
            elif key == "runs" and not any_run(paths):
                problems[key] = f"runs: {paths[0]} holds no run (no config.yaml below it)."
        elif task != reader and plain.get(key):
            problems[key] = (
                f"{key} is only read by task={reader}, and this is task={task}; leave it, or add task={reader}."
            )
    reads_runs = {"lengths", "noise"} & set(plain["task"].get("what") or ()) if task == "analyse" else ()
    if reads_runs and not plain["task"].get("runs"):
        problems["task.runs"] = (
            f"task.what={sorted(reads_runs)[0]} looks at finished runs: add task.runs=[<run folder>,…] to the command."
        )
    pairs = plain["task"].get("pairs") if task == "export_pairs" else None
    if pairs and not is_pair_set(Path(pairs)) and not pair_pointers(Path(pairs)):
        problems["task.pairs"] = (
            f"task.pairs={pairs} is neither a pair set nor a run folder with one (no stages/…/pairs.json)."
        )
    return problems


def _package_problems(plain: dict[str, Any]) -> dict[str, str]:
    """Choices that need a package which an extra brings and this Python has not."""
    logger = plain.get("logger") or {}
    chosen = {
        ("task.web=true", "gradio", "web"): plain["task"].get("web"),
        ("logger=mlflow", "mlflow", "mlflow"): logger.get("mlflow"),
        ("logger=tensorboard", "tensorboard", "tensorboard"): logger.get("tensorboard"),
    }
    return {
        choice.split("=")[0]: f"{choice} needs the package {package}, which is not installed: {install(extra)}"
        for (choice, package, extra), wanted in chosen.items()
        if wanted and find_spec(package) is None
    }


def _adapter_problems(adapter: object, task: str) -> dict[str, str]:
    if adapter is None:
        if task == "merge":
            return {"adapter": "task=merge folds an adapter into its base: add adapter=<folder> to the command."}
        return {}
    if isinstance(adapter, str) and (Path(adapter) / "adapter_config.json").is_file():
        return {}
    return {"adapter": f"adapter={adapter} is no folder with a PEFT adapter in it (no adapter_config.json)."}
