"""Groups of the configuration for tests: those of the default configuration, in micro-batches of whole steps unless told."""

from typing import Any

from parallax.settings.groups import Generation, Optim, Pairs, Stage, Trainer
from parallax.settings.shipped import shipped


def trainer(**changes: Any) -> Trainer:
    size = changes.get("batch_size", 16)
    return shipped(Trainer, **{"batch_size": size, "micro_batch_size": size, "micro_batch_tokens": None, **changes})


def generation(**changes: Any) -> Generation:
    return shipped(Generation, **changes)


def pairs(**changes: Any) -> Pairs:
    return shipped(Pairs, **changes)


def optim(**changes: Any) -> Optim:
    return shipped(Optim, **{"warmup_ratio": 0.0, **changes})


def stage(**changes: Any) -> Stage:
    """A whole stage; `trainer` may be a mapping too."""
    size = changes.get("trainer", {}).get("batch_size", 16)
    whole = {"batch_size": size, "micro_batch_size": size, "micro_batch_tokens": None, **changes.pop("trainer", {})}
    return shipped(Stage, trainer=whole, **changes)
