"""What a task's own module says of it, in its class `Keys(Task)`: the keys below `task`, and the facts of `groups.Task`."""

from __future__ import annotations

from functools import cache
from typing import Any

from parallax.settings.rules import Rule
from parallax.settings.source import UnknownTarget, definition
from parallax.settings.targets import fact, signature


@cache
def task_rule(name: str) -> Rule:
    """The rule of `task` where it is the task of this name."""
    takes = signature(_keys(name))
    return Rule("group", keys={key: takes.rule(key) for key in takes.names}, needed=takes.required)


def task_fact(name: str, about: str) -> Any:
    """What a task says about itself (`groups.Task`), such as which groups of the configuration it reads."""
    return fact(_keys(name), about)


@cache
def _keys(name: str) -> str:
    try:
        definition(f"parallax.tasks.{name}", "Keys")
    except UnknownTarget:
        return "parallax.settings.groups.Task"
    return f"parallax.tasks.{name}.Keys"
