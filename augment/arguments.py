"""Arguments of views, checked and brought to one form, so that 1 and 1.0 or a list and a tuple make the same view."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def whole(view: str, argument: str, value: Any, low: int, high: int) -> int:
    """An integer from `low` to `high`. Raises ValueError naming the argument, the value and the range."""
    right = not isinstance(value, bool) and isinstance(value, (int, float)) and value == value // 1
    if not right or not low <= value <= high:
        raise ValueError(f"{view}: {argument}={value!r} is out of range; give a whole number from {low} to {high}")
    return int(value)


def number(view: str, argument: str, value: Any, low: float, high: float) -> float:
    """A finite number from `low` to `high`. Raises ValueError naming the argument, the value and the range."""
    right = not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)
    if not right or not low <= value <= high:
        raise ValueError(f"{view}: {argument}={value!r} is out of range; give a number from {low:g} to {high:g}")
    return float(value)


def pair(view: str, argument: str, value: Any, low: float, high: float) -> tuple[float, float]:
    """Two numbers from `low` to `high`."""
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise ValueError(f"{view}: {argument}={value!r} is not a pair; give two numbers, {low:g} to {high:g}")
    first, second = (number(view, argument, item, low, high) for item in value)
    return first, second


def interval(view: str, argument: str, value: Any, low: float, high: float) -> tuple[float, float]:
    """Two ascending numbers from `low` to `high`, between which something is drawn."""
    first, last = pair(view, argument, value, low, high)
    if first > last:
        raise ValueError(f"{view}: {argument}={list(value)!r} is the wrong way round; give [smallest, largest]")
    return first, last


def one_of(view: str, argument: str, value: Any, allowed: Sequence[str]) -> str:
    """One of a few names."""
    if value not in allowed:
        raise ValueError(f"{view}: {argument}={value!r} is not known; give one of {', '.join(allowed)}")
    return str(value)
