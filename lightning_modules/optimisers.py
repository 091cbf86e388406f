"""Optimisers and learning-rate schedules, made from the plain `optim` group of the configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

OPTIMISERS = ("adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit")
SCHEDULES = ("cosine", "linear", "constant")


def build_optimiser(
    parameters: Sequence[nn.Parameter],
    optim: Mapping[str, Any],
    shape_of: Callable[[Tensor], tuple[int, ...]] = lambda parameter: tuple(parameter.shape),
) -> Optimizer:
    """An AdamW over `parameters`; weight decay touches matrices only, never biases and norms.

    Args:
        parameters: what is trained; none of them frozen.
        optim: keys name (adamw | adamw_8bit | paged_adamw | paged_adamw_8bit), lr, betas, eps, weight_decay.
        shape_of: a parameter's shape when it is whole.

    Raises:
        ValueError: nothing to train, or an unknown name.
    """
    if not parameters:
        raise ValueError(
            "there is nothing to train: no parameter requires a gradient. Check lora.enabled and lora.targets"
        )
    decay = float(optim.get("weight_decay", 0.0))
    groups = [
        {"params": [p for p in parameters if len(shape_of(p)) >= 2], "weight_decay": decay},
        {"params": [p for p in parameters if len(shape_of(p)) < 2], "weight_decay": 0.0},
    ]
    beta1, beta2 = optim.get("betas", (0.9, 0.999))
    settings: dict[str, Any] = {
        "lr": float(optim["lr"]),
        "betas": (float(beta1), float(beta2)),
        "eps": float(optim.get("eps", 1e-8)),
    }
    return _optimiser_class(str(optim.get("name", "adamw")))([g for g in groups if g["params"]], **settings)


def _optimiser_class(name: str) -> Callable[..., Optimizer]:
    if name == "adamw":
        return AdamW
    if name not in OPTIMISERS:
        raise ValueError(f"optim.name={name!r} is not known: use one of {', '.join(OPTIMISERS)}")
    import bitsandbytes.optim as bnb  # slow to import, and only needed here

    kinds = {"adamw_8bit": bnb.AdamW8bit, "paged_adamw": bnb.PagedAdamW, "paged_adamw_8bit": bnb.PagedAdamW8bit}
    return kinds[name]


def warmup_steps(optim: Mapping[str, Any], total_steps: int) -> int:
    """Steps of linear warm-up: `warmup_steps` if given, else `warmup_ratio` of all steps, rounded up."""
    if optim.get("warmup_steps") is not None:
        return int(optim["warmup_steps"])
    return math.ceil(float(optim.get("warmup_ratio", 0.0)) * total_steps)


def learning_rate_factor(schedule: str, step: int, warmup: int, total: int) -> float:
    """What the peak learning rate is multiplied with at optimiser step `step` (0-based), in [0, 1].

    Linear from 0 during warm-up, so the very first step of a run with warm-up moves nothing; then half a cosine or a
    line down to 0 at `total`, or constant. The same numbers as transformers' schedules of these names.
    """
    if step < warmup:
        return step / max(1, warmup)
    if schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, total - warmup)
    if schedule == "linear":
        return max(0.0, 1.0 - progress)
    if schedule == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
    raise ValueError(f"optim.scheduler={schedule!r} is not known: use one of {', '.join(SCHEDULES)}")


def build_schedule(optimiser: Optimizer, optim: Mapping[str, Any], total_steps: int) -> LambdaLR:
    """The schedule over `total_steps` optimiser steps; advance it once per step."""
    schedule, warmup = str(optim.get("scheduler", "cosine")), warmup_steps(optim, total_steps)
    learning_rate_factor(schedule, warmup, warmup, total_steps)  # an unknown name stops here, before training
    return LambdaLR(optimiser, lambda step: learning_rate_factor(schedule, step, warmup, total_steps))
