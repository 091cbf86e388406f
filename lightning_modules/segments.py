"""A fit in segments: between two of them the pairs are built again by the policy as it then is."""

from __future__ import annotations

import re
from typing import NamedTuple


class Segment(NamedTuple):
    """Optimiser steps `start` … `stop` − 1, trained on one set of pairs."""

    number: int
    start: int
    stop: int


def refresh_interval(refresh: str, steps_per_epoch: int) -> int | None:
    """Optimiser steps between two builds; None for `never`. Raises ValueError for anything but never, epoch or <n>_steps."""
    if refresh == "never":
        return None
    if refresh == "epoch":
        return steps_per_epoch
    if match := re.fullmatch(r"([1-9]\d*)_steps", refresh):
        return int(match[1])
    raise ValueError(f"pairs.refresh={refresh!r} is not known: use never, epoch, or a number of steps such as 50_steps")


def segments_of(refresh: str, steps_per_epoch: int, total_steps: int) -> list[Segment]:
    """Cut `total_steps` into segments.

    The length of an epoch is that of the first set of pairs: a rebuilt set may be larger or smaller, and is then read in
    part or more than once, so that the learning-rate schedule keeps its end.
    """
    every = refresh_interval(refresh, steps_per_epoch) or total_steps
    starts = range(0, total_steps, every)
    return [Segment(number, start, min(start + every, total_steps)) for number, start in enumerate(starts)]
