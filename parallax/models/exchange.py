"""Other values for the trained parameters, for a while: an earlier adapter answers through the network that is being trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from parallax.models.foreign import VLM
from parallax.models.sharding.base import Sharding, plain_name


def trainable_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names (as the whole model has them) and parameters that learn."""
    return [(plain_name(n), value) for n, value in model.named_parameters() if value.requires_grad]


@contextmanager
def instead(model: VLM, weights: dict[str, nn.Parameter]) -> Iterator[None]:
    """Inside: `weights` stand where the trained parameters of the same names are. Graphs of the latter stay whole."""
    places = []
    for name, kept in weights.items():
        owner, _, attribute = name.rpartition(".")
        module = model.get_submodule(owner)
        live = module._parameters[attribute]
        assert live is not None
        if kept.device != live.device:
            kept = weights[name] = nn.Parameter(kept.detach().to(live.device), requires_grad=False)
        places.append((module, attribute, live))
        module._parameters[attribute] = kept
    try:
        yield
    finally:
        for module, attribute, live in places:
            module._parameters[attribute] = live


@contextmanager
def copied_in(sharding: Sharding, model: VLM, weights: dict[str, nn.Parameter]) -> Iterator[None]:
    """Inside: the trained parameters have these whole values, each process its part; no graph may be alive.

    A sharded parameter cannot be exchanged for another, so its numbers are.
    """
    learned = dict(trainable_parameters(model))
    now = {name: sharding.values_here(value).clone() for name, value in learned.items()}
    try:
        sharding.put_values(learned, {name: kept.detach() for name, kept in weights.items()})
        yield
    finally:
        sharding.put_values(learned, now)
