"""Groups as the default configuration has them, for code that is used without one: the values stand in conf/ alone."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from omegaconf import OmegaConf

from parallax.settings.annotated_rules import Group
from parallax.settings.stages import overlay, resolve_stages

Kind = TypeVar("Kind", bound=Group)


@cache
def _defaults() -> dict[str, Any]:
    from parallax.settings.command_line import compose_checked

    cfg = compose_checked(["resume=never"])
    return {"stage": resolve_stages(cfg)[0], "model": OmegaConf.to_container(cfg.model, resolve=True)}


def shipped(kind: type[Kind], **changes: Any) -> Kind:
    """A group (`Trainer`, `Optim`, …, or a whole `Stage`) with the default configuration's values, but for `changes`.

    Raises ValueError for a key that the group has not, and for a value that is not allowed.
    """
    name, known = kind.__name__.lower(), _defaults()
    return kind.of(overlay(known.get(name, known["stage"].get(name)), changes))
