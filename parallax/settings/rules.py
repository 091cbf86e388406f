"""Rules for one value: its type, its range, and the words that say so."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["integer", "number", "text", "flag", "list", "mapping", "component", "anything"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What a key may hold. `allows` decides, `words` says it; both come from the same fields."""

    kind: Kind
    low: float | None = None  # smallest value allowed
    high: float | None = None  # largest value allowed
    above: float | None = None  # values must be larger than this
    below: float | None = None  # values must be smaller than this
    choices: tuple[str, ...] = ()  # words allowed; for numbers, words allowed beside them
    pattern: str = ""  # regular expression a text must match as a whole, …
    pattern_words: str = ""  # … and how that is said
    null: bool = False  # null allowed
    items: Rule | None = None  # rule of list items and of mapping values
    length: int | None = None  # exact number of list items
    or_items: bool = False  # one bare item is allowed in place of the list or mapping

    def allows(self, value: Any) -> bool:
        """Whether a resolved plain value fits. A mapping's or list's items are checked too; a component only for its shape."""
        if value is None:
            return self.null
        if self.or_items and self.items is not None and self.items.allows(value):
            return True
        match self.kind:
            case "integer":
                return value in self.choices or (type(value) is int and self._in_range(value))
            case "number":
                return value in self.choices or (type(value) in (int, float) and self._in_range(value))
            case "text":
                return isinstance(value, str) and self._known_text(value)
            case "flag":
                return isinstance(value, bool)
            case "list":
                right_length = isinstance(value, list) and self.length in (None, len(value))
                return right_length and all(self.items is None or self.items.allows(item) for item in value)
            case "mapping":
                return isinstance(value, dict) and all(
                    self.items is None or self.items.allows(item) for item in value.values()
                )
            case "component":
                return isinstance(value, dict) and isinstance(value.get("_target_"), str)
            case _:
                return True

    def words(self) -> str:
        """What is allowed, to be read after "it must be"."""
        said = self._words()
        if self.or_items and self.items is not None:
            said = f"{self.items.words()}, or {said}"
        return f"{said}, or null" if self.null else said

    def or_null(self) -> Rule:
        return replace(self, null=True)

    def _in_range(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def _known_text(self, value: str) -> bool:
        if self.choices or self.pattern:
            return value in self.choices or bool(self.pattern and re.fullmatch(self.pattern, value))
        return bool(value)

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
            case "list":
                size = "" if self.length is None else f" of {self.length} items"
                return f"a list{size}, each {self.items.words()}" if self.items else f"a list{size}"
            case "mapping":
                return f"a mapping from names to values, each {self.items.words()}" if self.items else "a mapping"
            case "component":
                return "a mapping with a `_target_`"
            case _:
                return "anything"

    def _range_words(self) -> str:
        low = f"{self.low:g}" if self.low is not None else None
        if self.low is not None and self.high is not None:
            return f" from {low} to {self.high:.15g}"
        parts = [f"of {low} or more"] if low is not None else []
        parts += [f"above {self.above:g}"] if self.above is not None else []
        parts += [f"at most {self.high:g}"] if self.high is not None else []
        parts += [f"below {self.below:g}"] if self.below is not None else []
        return " " + " and ".join(parts) if parts else ""


def integer(low: int | None = None, high: int | None = None, *words: str) -> Rule:
    return Rule("integer", low=low, high=high, choices=words)


def number(
    low: float | None = None, high: float | None = None, *, above: float | None = None, below: float | None = None
) -> Rule:
    return Rule("number", low=low, high=high, above=above, below=below)


def choice(*words: str) -> Rule:
    return Rule("text", choices=words)


def list_of(items: Rule, length: int | None = None, or_one: bool = False) -> Rule:
    return Rule("list", items=items, length=length, or_items=or_one)


def mapping_of(items: Rule, or_one: bool = False) -> Rule:
    return Rule("mapping", items=items, or_items=or_one)


TEXT = Rule("text")
FLAG = Rule("flag")
COMPONENT = Rule("component")
COUNT = integer(1)  # of anything
NATURAL = integer(0)
POSITIVE = number(above=0)
NOT_NEGATIVE = number(0)
SHARE = number(0, 1)
