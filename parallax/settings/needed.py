"""What must be given and must be there: mandatory values, files and folders."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from parallax.settings.comments import CONF, meaning_of
from parallax.settings.sweep_file import sweep_problems

PAIR_TASKS = ("align", "build_pairs", "check_judge")  # tasks that read `data`
MODEL_TASKS = (*PAIR_TASKS, "evaluate", "merge")


def missing_problems(plain: dict[str, Any], absent: list[str]) -> dict[str, str]:
    """Problems with values that are not given (`???`) and paths that lead nowhere, by key."""
    task = plain.get("task", {}).get("name")
    problems: dict[str, str] = {}
    for key in absent:
        if _is_not_read(key, plain, task):
            continue
        meaning = meaning_of(key, plain)
        problems[key] = f"{key} is not given{f': {meaning}' if meaning else ''}. Add {key}=… to the command."
    if task in PAIR_TASKS:
        for group, data in _sources(plain):
            for key in ("path", "image_root"):
                path = data.get(key)
                if isinstance(path, str) and f"{group}.{key}" not in absent and not Path(path).exists():
                    problems[f"{group}.{key}"] = f"{group}.{key}={path} does not exist (looked from {Path.cwd()})."
    if task in MODEL_TASKS:
        problems |= _model_problems(plain.get("model", {}))
        problems |= _adapter_problems(plain.get("adapter"), task)
    if task in PAIR_TASKS:
        problems |= _critic_problems(plain.get("judge") or {})
        problems |= _image_text_problems(plain.get("judge") or {})
    problems |= sweep_problems(plain)
    resume = plain.get("resume")
    if isinstance(resume, str) and resume not in ("auto", "never") and not Path(resume).is_dir():
        problems["resume"] = f"resume={resume} is neither auto nor never nor a run folder that exists."
    return problems


def _is_not_read(key: str, plain: dict[str, Any], task: Any) -> bool:
    """Whether this run can do without the value: data of a task that reads none, or of a stage that does not run."""
    stage = re.match(r"stages\.([^.]+)\.", key)
    if (key.startswith("data.") or stage is not None) and task not in PAIR_TASKS:
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
    path = str((judge.get("image_text") or {}).get("path"))
    is_folder = path.startswith((".", "/", "~", "assets")) or path.count("/") > 1
    if not is_folder or (Path(path).expanduser() / "config.json").is_file():
        return {}
    hint = " `python run.py experiment=make_tiny_clip` makes the built-in one." if path.endswith("tiny_clip") else ""
    return {
        "judge.image_text.path": f"judge.image_text.path={path} is no folder with a model in it (no config.json).{hint}"
    }


def _adapter_problems(adapter: Any, task: str) -> dict[str, str]:
    if adapter is None:
        if task == "merge":
            return {"adapter": "task=merge folds an adapter into its base: add adapter=<folder> to the command."}
        return {}
    if isinstance(adapter, str) and (Path(adapter) / "adapter_config.json").is_file():
        return {}
    return {"adapter": f"adapter={adapter} is no folder with a PEFT adapter in it (no adapter_config.json)."}
