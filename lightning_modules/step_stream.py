"""The steps of one fit as Lightning sees them: a single pass from the first step to the last, whatever epochs lie below.

Epochs, their shuffling and resuming in the middle of one are decided here and by the datamodule, from step numbers alone.
Lightning sees one iterable with a known length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle
from typing import Any, NamedTuple

from parallax.models.batch import StepBatch
from parallax.models.encoding.workers import watched, with_new_workers


class SealedStep:
    """A step that precision plugins pass by: casting reference log-probs to bfloat16 would corrupt them."""

    def __init__(self, step: StepBatch) -> None:
        self.step = step


class StepStream:
    """Optimiser steps `start` … `stop` − 1 of a segment that began at `origin`.

    Args:
        epoch_loader: (epoch, first step inside it) → iterable of the epoch's remaining steps.
        steps_per_epoch: steps of one pass over the pairs.
        origin: step at which this set of pairs came into use; its first pass begins there.
        start: first step to bring; beyond `origin` when a run is resumed.
        stop: the step after the last.
        first_epoch: number of the pass that begins at `origin`, for the shuffling.
    """

    def __init__(
        self,
        epoch_loader: Callable[[int, int], Iterable[StepBatch]],
        steps_per_epoch: int,
        *,
        start: int,
        stop: int,
        origin: int = 0,
        first_epoch: int = 0,
    ) -> None:
        if steps_per_epoch < 1:
            raise ValueError(
                "there is not a single optimiser step to make: no pair was kept. Look at why pairs were dropped"
            )
        if not origin <= start <= stop:
            raise ValueError(f"steps {start} to {stop} do not lie in a segment that begins at {origin}")
        self.epoch_loader, self.steps_per_epoch = epoch_loader, steps_per_epoch
        self.origin, self.start, self.stop, self.first_epoch = origin, start, stop, first_epoch

    def _rest_of_epoch(self, epoch: int, inside: int) -> Iterator[StepBatch]:
        """The epoch's steps from `inside` on, whatever workers are lost on the way."""
        brought = 0

        def rest() -> Iterator[StepBatch]:
            return watched(self.epoch_loader(epoch, inside + brought))

        for batch in with_new_workers(rest):
            brought += 1
            yield batch

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[SealedStep]:
        step = self.start
        while step < self.stop:
            passes, inside = divmod(step - self.origin, self.steps_per_epoch)
            before = step
            for batch in self._rest_of_epoch(self.first_epoch + passes, inside):
                yield SealedStep(batch)
                step += 1
                if step == self.stop:
                    return
            if step == before:
                raise RuntimeError(
                    f"the loader brought nothing for epoch {self.first_epoch + passes} from step {inside} on"
                )


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


def segments_of(refresh: str, portions: Sequence[int], total_steps: int) -> list[Segment]:
    """Cut `total_steps` into segments: a portion of the pairs each where there are several, else as often as pairs are built.

    `portions` are the steps of each portion of an epoch; a single one is all pairs. The length of an epoch is that of the first
    set of pairs: a rebuilt set may be larger or smaller, and is then read in part or more than once, so that the learning-rate
    schedule keeps its end.
    """
    every = refresh_interval(refresh, portions[0]) or total_steps
    segments: list[Segment] = []
    for length in cycle(portions if len(portions) > 1 else [every]):
        start = segments[-1].stop if segments else 0
        if start == total_steps:
            break
        segments.append(Segment(len(segments), start, min(start + length, total_steps)))
    return segments


def forget_position(checkpoint: dict[str, Any]) -> None:
    """Reset all progress counters in a Lightning checkpoint except the number of optimiser steps. Changes it in place."""
    state = checkpoint["loops"]["fit_loop"]
    steps_key = "epoch_loop.manual_optimization.optim_step_progress"
    steps = state[steps_key]["total"]["completed"]
    for key, value in state.items():
        if key.endswith("progress") and key != steps_key:
            _zero(value)
    state["epoch_loop.state_dict"]["_batches_that_stepped"] = steps  # the step that loggers show


def _zero(counters: dict[str, Any]) -> None:
    for name, value in counters.items():
        if isinstance(value, dict):
            _zero(value)
        elif isinstance(value, bool):
            counters[name] = False
        else:
            counters[name] = 0
