"""The base of all that a configuration builds: looks at its arguments once, when it is made, as the check would."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import cache
from typing import Any, get_type_hints

from parallax.settings.annotated_rules import rule_of
from parallax.settings.rules import Rule

Made = type | Callable[..., Any]  # a class, or a function that makes a part


class Part:
    """Arguments out of the range that their annotations say are refused, all at once, before `__init__` sees them."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Raises ValueError with a sentence for each argument that is not allowed."""
        rules = rules_of(cls)  # type: ignore[arg-type]
        try:
            given = _parameters(cls).bind_partial(None, *args, **kwargs).arguments  # type: ignore[arg-type]
        except TypeError:  # which `__init__` itself says better
            given = {}
        wrong = [
            f"{cls.__name__}: {name}={value!r} is not allowed: it must be {rules[name].words()}."
            for name, value in given.items()
            if name in rules and not rules[name].allows(value)
        ]
        if wrong:
            raise ValueError(" ".join(wrong))
        return super().__new__(cls)


@cache
def rules_of(kind: Made) -> Mapping[str, Rule]:
    """What each argument may hold, by its annotations; nothing where these cannot be looked at while running."""
    try:
        hints = get_type_hints(kind if is_dataclass(kind) else _constructor(kind), include_extras=True)
    except NameError:
        return {}
    return {name: rule_of(hint) for name, hint in hints.items() if name in _parameters(kind).parameters}


@cache
def _parameters(kind: Made) -> inspect.Signature:
    return inspect.signature(_constructor(kind))


def _constructor(kind: Made) -> Callable[..., Any]:
    return kind.__init__ if isinstance(kind, type) else kind  # type: ignore[misc]
