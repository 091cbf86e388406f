"""Optimisers and learning-rate schedules, made from the `optim` group of the configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from parallax.settings.groups import Optim


def build_optimiser(
    parameters: Sequence[nn.Parameter],
    optim: Optim,
    shape_of: Callable[[Tensor], tuple[int, ...]] = lambda parameter: tuple(parameter.shape),
) -> Optimizer:
    """An AdamW over `parameters`; weight decay touches matrices only, never biases and norms.

    Args:
        parameters: what is trained; none of them frozen.
        optim: the kind and its settings.
        shape_of: a parameter's shape when it is whole.

    Raises:
        ValueError: nothing to train.
    """
    if not parameters:
        raise ValueError(
            "there is nothing to train: no parameter requires a gradient. Check lora.enabled and lora.targets"
        )
    groups = [
        {"params": [p for p in parameters if len(shape_of(p)) >= 2], "weight_decay": optim.weight_decay},
        {"params": [p for p in parameters if len(shape_of(p)) < 2], "weight_decay": 0.0},
    ]
    kind = _optimiser_class(optim.name, on_gpu=all(p.is_cuda for p in parameters))
    return kind([group for group in groups if group["params"]], lr=optim.lr, betas=optim.betas, eps=optim.eps)


def _optimiser_class(name: str, on_gpu: bool) -> Callable[..., Optimizer]:
    if name == "adamw":
        return partial(AdamW, fused=True) if on_gpu else AdamW  # one pass and no copies, in place of lists of tensors
    import bitsandbytes.optim as bnb  # slow to import, and only needed here

    kinds = {"adamw_8bit": bnb.AdamW8bit, "paged_adamw": bnb.PagedAdamW, "paged_adamw_8bit": bnb.PagedAdamW8bit}
    return kinds[name]


def build_schedule(optimiser: Optimizer, optim: Optim, total_steps: int) -> LambdaLR:
    """transformers' schedule of `optim.scheduler` over `total_steps` optimiser steps; advance it once per step.

    Linear from 0 during warm-up (`warmup_steps` if given, else `warmup_ratio` of all steps, rounded up), so the first step of a
    run with warm-up moves nothing; then half a cosine or a line down to 0 at `total_steps`, or constant.
    """
    from transformers import get_scheduler

    warmup = math.ceil(optim.warmup_ratio * total_steps) if optim.warmup_steps is None else optim.warmup_steps
    name = "constant_with_warmup" if optim.scheduler == "constant" else optim.scheduler
    return get_scheduler(name, optimiser, warmup, total_steps)  # type: ignore[return-value]
