"""torchmetrics without its two hundred metrics: Lightning needs two base classes of it, and imports the whole package for them.

The package's `__init__` imports every metric, and with them scipy.signal, scipy.stats and matplotlib: seconds in every process.
After `light_torchmetrics()` the names that Lightning asks for come from the submodules that define them; any other name has the
package import itself whole, as always.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any

NAME = "torchmetrics"
SOURCES = {  # of the names that Lightning imports; `utilities.checks` comes before `metric`, as in the package itself
    "Metric": "torchmetrics.utilities.checks",
    "MetricCollection": "torchmetrics.collections",
    "__version__": "torchmetrics.__about__",
}


class _Light(ModuleType):
    """The package until somebody asks for more."""

    def __getattr__(self, name: str) -> Any:
        if name in SOURCES:
            return getattr(import_module(SOURCES[name]), name)
        if name.startswith("__"):
            raise AttributeError(f"module {NAME} has no attribute {name}")
        self.__class__ = ModuleType  # type: ignore[assignment]
        assert self.__spec__ is not None and self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def light_torchmetrics() -> None:
    """Call it before Lightning is imported; without torchmetrics, or once it is there, it does nothing."""
    found: ModuleSpec | None = PathFinder.find_spec(NAME) if NAME not in sys.modules else None
    if found is not None:
        module = module_from_spec(found)
        module.__class__ = _Light
        module.__dict__["_logger"] = logging.getLogger(NAME)  # its submodules ask for it
        sys.modules[NAME] = module
