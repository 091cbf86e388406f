"""For a while: other values for the trained parameters (an earlier adapter answers through the live network), no dropout."""

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


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside: evaluation mode; afterwards every module has the mode it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


ATTRIBUTES = (  # where transformers keeps rates that are no modules
    "attention_dropout",
    "dropout",
    "activation_dropout",
)


class Dropouts:
    """Remembers the rates of the networks it was asked to turn off."""

    def __init__(self) -> None:
        self._rates: dict[tuple[str, str], float] = {}

    def off(self, model: nn.Module) -> None:
        """Set every rate to zero."""
        for name, module, attribute in _places(model):
            self._rates.setdefault((name, attribute), getattr(module, attribute))
            setattr(module, attribute, 0.0)

    def as_configured(self, model: nn.Module) -> None:
        """Set the rates that `off` found."""
        for name, module, attribute in _places(model):
            if (name, attribute) in self._rates:
                setattr(module, attribute, self._rates[name, attribute])


def _places(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            yield name, module, "p"
        for attribute in ATTRIBUTES:
            if isinstance(getattr(module, attribute, None), float):
                yield name, module, attribute
