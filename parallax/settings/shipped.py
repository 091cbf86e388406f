"""Groups as the default configuration has them, for code that is used without one: the values stand in conf/ alone."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from parallax.settings.annotated_rules import Group
from parallax.settings.groups import Stage
from parallax.settings.stages import overlay, resolve_stages

Kind = TypeVar("Kind", bound=Group)


@cache
def _defaults() -> dict[str, Any]:
    from parallax.settings.command_line import compose_checked

    return resolve_stages(compose_checked(["resume=never"]))[0]


def shipped(kind: type[Kind], **changes: Any) -> Kind:
    """A group (`Trainer`, `Optim`, …, or a whole `Stage`) with the default configuration's values, but for `changes`.

    Raises ValueError for a key that the group has not, and for a value that is not allowed.
    """
    values = _defaults() if kind is Stage else _defaults()[kind.__name__.lower()]
    return kind.of(overlay(values, changes))
