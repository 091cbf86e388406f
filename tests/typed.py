"""Groups of the configuration for tests: those of the default configuration, in micro-batches of whole steps unless told."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from parallax.models import loading
from parallax.models.policy import Policy
from parallax.settings.groups import Generation, Lora, Model, Optim, Pairs, Stage, Trainer
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


def model(**changes: Any) -> Model:
    """A model by its path, without a feature cache unless told; in float64 too, which the configuration does not know."""
    plain = {"name": Path(changes["path"]).name, "family": None, "image_pad": False, "feature_cache": "none"}
    return replace(shipped(Model), **{**plain, **changes})


def lora(**changes: Any) -> Lora:
    return replace(shipped(Lora, alpha=None), **changes)


def load_policy(group: Mapping[str, Any], adapter_group: Mapping[str, Any] | None, **options: Any) -> Policy:
    """`loading.load_policy` for keys of the two groups; None trains the language model in full."""
    given = {"enabled": False} if adapter_group is None else adapter_group
    return loading.load_policy(model(**group), lora(**given), **options)
