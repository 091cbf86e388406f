"""What must be given and must be there: mandatory values, files and folders."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from parallax.settings.comments import CONF, meaning_of
from parallax.settings.dashboard_keys import dashboard_problems
from parallax.settings.evaluation_keys import MUST_EXIST
from parallax.settings.sweep_file import sweep_problems

PAIR_TASKS = ("align", "build_pairs", "check_judge")  # tasks that read `data`
DATA_TASKS = (
    *PAIR_TASKS,
    "check_data",
    "export_pairs",
)  # tasks that look at `data`; check_data also at what is not there
MODEL_TASKS = (*PAIR_TASKS, "export_pairs", "evaluate", "compare_adapters", "chat", "merge")


def missing_problems(plain: dict[str, Any], absent: list[str]) -> dict[str, str]:
    """Problems with values that are not given (`???`) and paths that lead nowhere, by key."""
    task = plain.get("task", {}).get("name")
    problems: dict[str, str] = {}
    for key in absent:
        if _is_not_read(key, plain, task):
            continue
        meaning = meaning_of(key, plain)
        problems[key] = f"{key} is not given{f': {meaning}' if meaning else ''}. Add {key}=… to the command."
    if task in DATA_TASKS and task != "check_data":
        for group, data in _sources(plain):
            for key, path in _paths_of(data):
                if f"{group}.{key}" not in absent and not Path(path).expanduser().exists():
                    problems[f"{group}.{key}"] = f"{group}.{key}={path} does not exist (looked from {Path.cwd()})."
    if task in ("align", "evaluate", "compare_adapters"):
        problems |= _benchmark_problems(plain.get("evaluation") or {}, absent)
    if task in MODEL_TASKS:
        problems |= _model_problems(plain.get("model", {}))
        problems |= _adapter_problems(plain.get("adapter"), task)
    if task == "compare_adapters":
        problems |= _comparison_problems(plain, absent)
    if task in PAIR_TASKS:
        problems |= _critic_problems(plain.get("judge") or {})
        problems |= _image_text_problems(plain.get("judge") or {})
    problems |= _folders_problems(plain, task)
    problems |= sweep_problems(plain)
    problems |= dashboard_problems(plain)
    resume = plain.get("resume")
    if isinstance(resume, str) and resume not in ("auto", "never") and not Path(resume).is_dir():
        problems["resume"] = f"resume={resume} is neither auto nor never nor a run folder that exists."
    return problems


def _is_not_read(key: str, plain: dict[str, Any], task: Any) -> bool:
    """Whether this run can do without the value: data of a task that reads none, or of a stage that does not run."""
    stage = re.match(r"stages\.([^.]+)\.", key)
    if (key.startswith("data.") or stage is not None) and task not in DATA_TASKS:
        return True
    return stage is not None and ".data." in key and stage[1] not in plain.get("method", {}).get("stages", [])


def _sources(plain: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every source this run reads, by its dotted key."""
    own = [
        (f"stages.{name}.data", node["data"])
        for name, node in (plain.get("stages") or {}).items()
        if name in plain["method"]["stages"] and isinstance(node, dict) and isinstance(node.get("data"), dict)
    ]
    return [("data", plain["data"]), *own]


def _paths_of(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Files and folders a source names, by key. A set of the hub (owner/name) is none."""
    given = [(key, data.get(key)) for key in ("path", "image_root", "names")]
    paths = [(key, path) for key, value in given for path in (value if isinstance(value, list) else [value])]
    on_hub = str(data.get("_target_")).endswith(".ColumnsSource")
    return [
        (key, path)
        for key, path in paths
        if isinstance(path, str) and not (on_hub and key == "path" and re.fullmatch(r"[\w\-.]+/[\w\-.]+", path))
    ]


def _benchmark_problems(evaluation: dict[str, Any], absent: list[str]) -> dict[str, str]:
    """Files of benchmarks that are not there, and a judge that is needed and has no address."""
    problems = {}
    for name in MUST_EXIST:
        path, key = evaluation.get(name), f"evaluation.{name}"
        if isinstance(path, str) and key not in absent and not Path(path).expanduser().exists():
            problems[key] = f"{key}={path} does not exist (looked from {Path.cwd()})."
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


def _model_problems(model: dict[str, Any]) -> dict[str, str]:
    path = str(model.get("path"))
    is_folder = path.startswith((".", "/", "~", "assets")) or path.count("/") > 1
    if not is_folder or (Path(path).expanduser() / "config.json").is_file():
        return {}
    hint = ""
    if model.get("name") == "tiny_llava":
        root = os.environ.get("PARALLAX_ROOT")
        hint = " `python run.py experiment=make_tiny_llava` makes the built-in model"
        hint += f"; it belongs in {Path(root) / 'assets' / 'tiny_llava'}." if root else "."
    return {"model.path": f"model.path={path} is no folder with a model in it (no config.json).{hint}"}


def _critic_problems(judge: dict[str, Any]) -> dict[str, str]:
    if not str(judge.get("_target_")).endswith(".SelfCritic"):
        return {}
    name = str(judge.get("prompt"))
    is_path = name.endswith((".yaml", ".yml")) or "/" in name
    file = Path(name).expanduser() if is_path else CONF / "prompts" / f"{name}.yaml"
    if file.is_file():
        return {}
    known = ", ".join(sorted(path.stem for path in (CONF / "prompts").glob("critic*.yaml")))
    return {
        "judge.prompt": f"judge.prompt={name} names no prompt file; use {known}, or the path of a YAML file of that form."
    }


def _image_text_problems(judge: dict[str, Any]) -> dict[str, str]:
    if not str(judge.get("_target_")).endswith(".ClipCalibrated") or not judge.get("image_weight"):
        return {}
    node = judge.get("image_text")
    path = str(node.get("path")) if isinstance(node, dict) else ""
    is_folder = path.startswith((".", "/", "~", "assets")) or path.count("/") > 1
    if not is_folder or (Path(path).expanduser() / "config.json").is_file():
        return {}
    hint = " `python run.py experiment=make_tiny_clip` makes the built-in one." if path.endswith("tiny_clip") else ""
    return {
        "judge.image_text.path": f"judge.image_text.path={path} is no folder with a model in it (no config.json).{hint}"
    }


def _folders_problems(plain: dict[str, Any], task: Any) -> dict[str, str]:
    """`run` and `runs` go with the tasks that read them."""
    problems = {}
    for key, reader, example in (
        ("runs", "compare", "runs=<folder of runs> or runs=[<folder>,<folder>]"),
        ("run", "gallery", "run=<run folder>"),
    ):
        if task == reader and not plain.get(key):
            problems[key] = f"task={reader} needs something to show: add {example} to the command."
        elif task != reader and plain.get(key):
            problems[key] = (
                f"{key} is only read by task={reader}, and this is task={task}; leave it, or add task={reader}."
            )
    return problems


def _adapter_problems(adapter: Any, task: str) -> dict[str, str]:
    if adapter is None:
        if task == "merge":
            return {"adapter": "task=merge folds an adapter into its base: add adapter=<folder> to the command."}
        return {}
    if isinstance(adapter, str) and (Path(adapter) / "adapter_config.json").is_file():
        return {}
    return {"adapter": f"adapter={adapter} is no folder with a PEFT adapter in it (no adapter_config.json)."}
