"""Rules for one value: its type, its range, and the words that say so. Made from annotations by `annotated_rules`."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import Any, Literal

Kind = Literal["integer", "number", "text", "flag", "list", "mapping", "group", "component", "values", "anything"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What a key may hold. `allows` decides, `words` says it; both come from the same fields."""

    kind: Kind
    low: float | None = None  # smallest value allowed
    high: float | None = None  # largest value allowed
    above: float | None = None  # values must be larger than this
    below: float | None = None  # values must be smaller than this
    multiple: float | None = None  # values must be multiples of this
    values: tuple[Any, ...] = ()  # all that is allowed, where these are not only words
    choices: tuple[str, ...] = ()  # words allowed; for numbers, words allowed beside them; for mappings, its names
    pattern: str = ""  # regular expression a text must match as a whole, …
    pattern_words: str = ""  # … and how that is said
    null: bool = False  # null allowed
    items: Rule | None = None  # rule of list items and of mapping values
    places: tuple[Rule, ...] = ()  # rules of list items that differ by place
    least: int | None = None  # fewest items of a list, or characters of a text (1 unless given)
    most: int | None = None  # most items of a list
    ascending: bool = False  # list items may not fall
    keys: Mapping[str, Rule] | None = None  # of a group; `*` stands for any other name
    needed: tuple[str, ...] = ()  # keys a group cannot do without
    of: str = ""  # dotted path of the class a component must be of; "" for any
    many: bool = False  # in Python, a list of living components may stand for the component
    named: str = ""  # group of conf/ whose choices may stand for the component by name
    exists: str = ""  # a path that must be there: as in `ranges.Exists`
    either: tuple[Rule, ...] = ()  # other forms that are allowed as well
    members: Mapping[str, Enum] = field(default_factory=dict)  # what the words stand for, where a living class says so

    def allows(self, value: object) -> bool:
        """Whether a plain value fits, items included. Of components only the shape is looked at; an object counts as one."""
        if value is None:
            return self.null or self.kind == "anything"
        return self._allows(value) or any(rule.allows(value) for rule in self.either)

    def _allows(self, value: object) -> bool:
        match self.kind:
            case "integer":
                return value in self.choices or (type(value) is int and self._in_range(value))  # type: ignore[arg-type]
            case "number":
                is_number = isinstance(value, int | float) and not isinstance(value, bool)
                return (isinstance(value, str) and value in self.choices) or (is_number and self._in_range(value))  # type: ignore[arg-type]
            case "text":
                is_text = isinstance(value, str | os.PathLike) and self._known_text(os.fspath(value))
                return is_text or (isinstance(value, Enum) and value in self.members.values())
            case "flag":
                return isinstance(value, bool)
            case "values":
                return any(type(value) is type(each) and value == each for each in self.values)
            case "list":
                return isinstance(value, list | tuple) and self._known_list(value)
            case "mapping":
                return isinstance(value, Mapping) and all(
                    (not self.choices or name in self.choices) and (self.items is None or self.items.allows(item))
                    for name, item in value.items()
                )
            case "group":
                keys = self.keys or {}
                return isinstance(value, Mapping) and all(
                    (rule := keys.get(name, keys.get("*"))) is not None and rule.allows(item)
                    for name, item in value.items()
                )
            case "component":
                if self.many and isinstance(value, list | tuple):
                    return not any(isinstance(item, str | int | float | list | tuple | Mapping) for item in value)
                if isinstance(value, str | int | float | list | tuple):
                    return bool(self.named) and isinstance(value, str) and bool(value)
                return not isinstance(value, Mapping) or isinstance(value.get("_target_"), str) or bool(self.named)
            case _:
                return True

    @property
    def holds_parts(self) -> bool:
        """Whether something with keys of its own may stand here or further down: such values are looked into one by one."""
        inside = [*self.either, *self.places, *([self.items] if self.items else [])]
        return self.kind in ("component", "group") or any(rule.holds_parts for rule in inside)

    def form_for(self, value: object) -> Rule:
        """The form that a value of this shape seems meant for; the rule itself when none fits."""
        kinds: tuple[Kind, ...] = ("list",) if isinstance(value, list | tuple) else ()
        if isinstance(value, Mapping):
            kinds = ("component",) if "_target_" in value else ("group", "mapping", "component")
        forms = [form for kind in kinds for form in (self, *self.either) if form.kind == kind]
        return forms[0] if forms else self

    def places_in(self, value: object) -> Iterator[tuple[str, str]]:
        """The paths in an allowed value that must be there, each with `exists`."""
        if isinstance(value, str) and self.exists:
            yield value, self.exists
        for item in value if isinstance(value, list) and self.items else ():
            yield from self.items.places_in(item) if self.items else ()
        for form in self.either:
            yield from form.places_in(value)

    def words(self) -> str:
        """What is allowed, to be read after "it must be"."""
        said = ", or ".join([*(rule.words() for rule in self.either), self._words()])
        return f"{said}, or null" if self.null else said

    def one_form(self, value: object) -> Any:
        """An allowed value in the one form that equal values share: 1 as 1.0 where a number is meant, lists as tuples."""
        if self.kind == "number" and isinstance(value, int):
            return float(value)
        if isinstance(value, str) and value in self.members:
            return self.members[value]
        if self.kind == "list" and isinstance(value, list | tuple):
            return tuple(item if self.items is None else self.items.one_form(item) for item in value)
        return value

    def _in_range(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (self.multiple is None or value % self.multiple == 0)
        )

    def _known_text(self, value: str) -> bool:
        if self.choices or self.pattern:
            return value in self.choices or bool(self.pattern and re.fullmatch(self.pattern, value))
        return bool(value) or self.least == 0

    def _known_list(self, value: list[Any] | tuple[Any, ...]) -> bool:
        fits = (self.least or 0) <= len(value) and (self.most is None or len(value) <= self.most)
        rules = self.places or (self.items,) * len(value)
        if not fits or not all(rule is None or rule.allows(item) for rule, item in zip(rules, value, strict=True)):
            return False
        return not self.ascending or all(first <= second for first, second in pairwise(value))

    def _words(self) -> str:
        match self.kind:
            case "integer" | "number":
                noun = "an integer" if self.kind == "integer" else "a number"
                return " or ".join([f"{noun}{self._range_words()}", *self.choices])
            case "text":
                parts = [*self.choices, self.pattern_words] if self.pattern else [*self.choices]
                return f"one of {', '.join(parts)}" if len(parts) > 1 else parts[0] if parts else "a text"
            case "flag":
                return "true or false"
            case "values":
                return f"one of {', '.join(str(each).lower() if each in (True, False) else str(each) for each in self.values)}"
            case "list":
                each = f", each {self.items.words()}" if self.items else ""
                each += f": {', then '.join(rule.words() for rule in self.places)}" if self.places else ""
                return f"a list{self._size_words()}{each}{', smallest first' if self.ascending else ''}"
            case "mapping":
                said = f"a mapping from {', '.join(self.choices) or 'names'} to values"
                return f"{said}, each {self.items.words()}" if self.items else said if self.choices else "a mapping"
            case "group":
                return f"a mapping with {', '.join(self.keys or ())}"
            case "component":
                named = f"the name of a choice of {self.named}, a mapping with `name` and arguments, or "
                return (named if self.named else "") + "a mapping with a `_target_`"
            case _:
                return "anything"

    def _size_words(self) -> str:
        if not self.least and self.most is None:
            return ""
        if self.least == self.most:
            return f" of {self.most} items"
        if self.most is None:
            return f" of {self.least} or more"
        return f" of {self.least or 0} to {self.most} items"

    def _range_words(self) -> str:
        low = f"{self.low:g}" if self.low is not None else None
        times = f", a multiple of {self.multiple:g}" if self.multiple is not None else ""
        if self.low is not None and self.high is not None:
            return f" from {low} to {self.high:.15g}{times}"
        parts = [f"of {low} or more"] if low is not None else []
        parts += [f"above {self.above:g}"] if self.above is not None else []
        parts += [f"at most {self.high:g}"] if self.high is not None else []
        parts += [f"below {self.below:g}"] if self.below is not None else []
        return (" " + " and ".join(parts) if parts else "") + times
