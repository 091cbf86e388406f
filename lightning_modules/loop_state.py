"""Resuming: which step a run is at is kept, where Lightning thinks it is inside an epoch is not.

Our loader is told the first step it has to bring, so Lightning's own notion of a half-finished epoch would only count the
same steps twice.
"""

from __future__ import annotations

from typing import Any


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
