"""Builds the parts a configuration names: the one door between text and code.

Only parts are built (`kinds`), whatever the configuration says and wherever it came from. Values are taken as they stand: an
interpolation that was not resolved when the configuration was checked is a text and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any

from hydra.errors import InstantiationException

from parallax.settings.kinds import GET_METHOD, require_parts
from parallax.settings.part import rules_of
from parallax.settings.rules import Rule

WORDS = ("_target_", "_args_", "_partial_", "_convert_", "_recursive_")  # of Hydra's, beside a node's arguments


def build(node: Mapping[str, Any], key: str) -> Any:
    """The part that a node (plain data) describes, with the parts inside it.

    Args:
        node: with `_target_` and arguments.
        key: where it stands in the configuration, such as `aug`, `stages.align.proposer` or `evaluation.suites.chair`; this says
            which kinds of parts it may be (`kinds.kinds_at`).

    Raises:
        UnknownTarget: something in it is no part, or no part of the kind that belongs there.
        InstantiationException: a part refused its arguments; the cause is that part's own error.
    """
    require_parts(node, key)
    return _built(node)


def _built(value: object) -> Any:
    if isinstance(value, list | tuple):
        return [_built(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if "_target_" not in value:
        return {name: _built(item) for name, item in value.items()}
    target = str(value["_target_"])
    if target == GET_METHOD:
        return _named(str(value["path"]))
    made = _named(target)
    rules = rules_of(made.func if isinstance(made, partial) else made)
    arguments = {
        str(name): _member(_built(item), rules.get(str(name))) for name, item in value.items() if name not in WORDS
    }
    unnamed = _built(list(value.get("_args_") or []))
    if value.get("_partial_"):
        return partial(made, *unnamed, **arguments)
    try:
        return made(*unnamed, **arguments)
    except InstantiationException:
        raise
    except Exception as error:
        raise InstantiationException(f"{target} could not be made: {error}") from error


def _member(value: object, rule: Rule | None) -> object:
    """The member of an enumeration that a word stands for, where the argument is one; anything else as it is."""
    if rule is not None and isinstance(value, list):
        return [_member(item, rule.items) for item in value]
    return rule.members.get(value, value) if rule is not None and isinstance(value, str) else value


def _named(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(import_module(module), name)
