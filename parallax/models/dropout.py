"""Every dropout of a network: off where two networks are compared, and back as it was configured."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

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
