"""OmegaConf, and with it Hydra, within bounds, whichever folder a configuration comes from.

Files and interpolations can name each other until they stand for more than any memory holds; an interpolation can ask for any
variable of the environment.
"""

from __future__ import annotations

import io
import re
import threading
from typing import Any

import omegaconf._utils as omegaconf_reads
from omegaconf import OmegaConf
from omegaconf.base import Container
from omegaconf.errors import InterpolationResolutionError
from omegaconf.resolvers import oc

from parallax.records.yaml_file import MOST_BYTES, require_bounds
from parallax.settings.errors import ConfigError
from parallax.settings.faster_omegaconf import faster_omegaconf

MOST_STEPS = 1000  # interpolations that one value may stand for
MOST_CHARACTERS = 1 << 20  # of a value put together
SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.I)  # ends of names of variables

_resolve = Container.resolve_parse_tree


class _Steps(threading.local):
    depth = count = 0


_steps = _Steps()


def bounded_omegaconf() -> None:
    """From now on in this process."""
    faster_omegaconf()
    loader = _loader(omegaconf_reads.get_yaml_loader())
    omegaconf_reads.get_yaml_loader = lambda: loader
    Container.resolve_parse_tree = _resolved  # type: ignore[method-assign]
    OmegaConf.register_new_resolver("oc.env", _variable, replace=True)


def _loader(plain: Any) -> Any:
    class Bounded(plain):  # type: ignore[misc]
        def __init__(self, stream: Any) -> None:
            text = stream.read(MOST_BYTES + 1) if hasattr(stream, "read") else stream
            self.path = str(getattr(stream, "name", "the configuration"))
            if len(text) > MOST_BYTES:
                raise ConfigError(f"{self.path} has more than {MOST_BYTES >> 20} MiB, which no configuration has.")
            named = io.StringIO(text)
            named.name = self.path  # type: ignore[attr-defined]
            super().__init__(named)

        def get_single_data(self) -> Any:
            try:
                content = super().get_single_data()
                require_bounds(content, self.path)
            except RecursionError as error:
                raise ConfigError(f"{self.path} is nested too deeply.") from error
            except ValueError as error:
                raise ConfigError(f"{error}.") from error
            return content

    return Bounded


def _resolved(self: Container, *positional: Any, **named: Any) -> Any:
    _steps.count = _steps.count + 1 if _steps.depth else 0
    if _steps.count > MOST_STEPS:
        raise InterpolationResolutionError(f"it stands for more than {MOST_STEPS:,} other values")
    _steps.depth += 1
    try:
        value = _resolve(self, *positional, **named)
    finally:
        _steps.depth -= 1
    if isinstance(value, str) and len(value) > MOST_CHARACTERS:
        raise InterpolationResolutionError(f"it stands for more than {MOST_CHARACTERS:,} characters")
    return value


def _variable(name: str, default: Any = oc._DEFAULT_MARKER_) -> str | None:
    """`${oc.env:NAME,default}`, of variables that hold no secret: configurations are written down and sent on."""
    if SECRET.search(name):
        raise InterpolationResolutionError(
            f"the variable {name} of the environment is a secret by its name, and configurations are written down; where a "
            "service wants a key, give the variable's name (key_variable)"
        )
    return oc.env(name, default)
