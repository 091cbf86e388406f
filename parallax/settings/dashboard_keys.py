"""What must be there for task=dashboard: the package that builds it, keys that exist, a file to apply."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from parallax.settings.comments import meanings
from parallax.settings.extras import install
from parallax.settings.suggestions import closest, or_list

PACKAGE = "wandb_workspaces"


def dashboard_problems(plain: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with the keys of task=dashboard, by key; nothing for other tasks."""
    task = plain.get("task") or {}
    if task.get("name") != "dashboard":
        return {}
    problems = {}
    if find_spec(PACKAGE) is None:
        problems["task"] = (
            f"task=dashboard needs the package wandb-workspaces, which is not installed: {install('dashboard')} "
            "(our extra `dashboard`)."
        )
    if not task.get("metrics"):
        problems["task.metrics"] = "task.metrics is empty: name at least one, such as task.metrics=[eval/chair_i]."
    known = meanings()
    for setting in task.get("settings") or ():
        if setting not in known and not str(setting).endswith("._target_"):
            near = closest(str(setting), list(known))
            hint = f" Did you mean {or_list(near)}?" if near else ""
            problems["task.settings"] = f"task.settings names {setting}, which is no key of the configuration.{hint}"
    if task.get("apply") and not Path(str(task["apply"])).is_file():
        problems["task.apply"] = f"task.apply={task['apply']} is no file (looked from {Path.cwd()})."
    return problems
