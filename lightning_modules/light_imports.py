"""Packages of others without the parts that a run does not use: seconds in every process.

torchmetrics' `__init__` imports every metric, and with them scipy.signal and matplotlib; torchvision brings its models;
transformers wants one function of `scipy.optimize`; and torch's compiler comes in through `torch.compiler.disable`, which every
optimiser calls, though nothing is compiled. After `light_imports()` the names that are asked for on the way come from where they
are defined, or are what they come to without a compiler; any other name, and any other submodule of the compiler, has the package
import itself whole, as always (only torchmetrics' own plots stay away).
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any


def _as_it_is(fn: Any = None, recursive: bool = True, **_: Any) -> Any:
    """What the compiler's decorators come to where nothing is compiled: the function, or a decorator that gives it back."""
    return _as_it_is if fn is None else fn


COMPILER = "torch._dynamo"
ALONE = (f"{COMPILER}._trace_wrapped_higher_order_op",)  # a submodule that needs nothing of its package
LIGHT: dict[str, dict[str, Any]] = {  # package -> name -> where it is defined, or the thing itself
    "torchmetrics": {  # `utilities.checks` comes before `metric`, as in the package itself
        "Metric": "torchmetrics.utilities.checks",
        "MetricCollection": "torchmetrics.collections",
        "__version__": "torchmetrics.__about__",
    },
    "torchvision.models": {},
    "torchvision.ops": {},
    "scipy.optimize": {"linear_sum_assignment": "scipy.optimize._lsap"},
    COMPILER: {
        "allow_in_graph": _as_it_is,
        "assume_constant_result": _as_it_is,
        "disable": _as_it_is,
        "graph_break": lambda msg="": None,
        "OptimizedModule": type("OptimizedModule", (), {}),  # Lightning asks whether a module is one
    },
}


class _Light(ModuleType):
    """A package until somebody asks for more."""

    def __getattr__(self, name: str) -> Any:
        if name in LIGHT[self.__name__]:
            there = LIGHT[self.__name__][name]
            return getattr(import_module(there), name) if isinstance(there, str) else there
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__} has no attribute {name}")
        whole(self)
        return getattr(self, name)


def whole(package: _Light) -> None:
    """Have it import itself."""
    package.__class__ = ModuleType  # type: ignore[assignment]
    assert package.__spec__ is not None and package.__spec__.loader is not None
    package.__spec__.loader.exec_module(package)


class _PackageFirst(MetaPathFinder, Loader):
    """Asked for a submodule of the compiler, has the package import itself, as Python would have; then the submodule is there."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package = sys.modules.get(COMPILER)
        if isinstance(package, _Light) and name.startswith(f"{COMPILER}.") and name not in ALONE:
            whole(package)
            if name in sys.modules:
                return ModuleSpec(name, self)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        pass


def light_imports() -> None:
    """Call it before these packages are imported; for one that is missing or there already it does nothing."""
    if "torch" not in sys.modules:
        sys.meta_path.insert(0, _PackageFirst())
    for name in LIGHT:
        parent, _, _ = name.rpartition(".")
        if name in sys.modules or parent in sys.modules:
            continue
        within = PathFinder.find_spec(parent) if parent else None
        if parent and within is None:
            continue
        found = PathFinder.find_spec(name, within.submodule_search_locations if within else None)
        if found is not None:
            module = module_from_spec(found)
            module.__class__ = _Light
            module.__dict__["_logger"] = logging.getLogger(name)  # torchmetrics' submodules ask for it
            sys.modules[name] = module
            if name == "torchmetrics":
                _without_plots(found)


def _without_plots(torchmetrics: ModuleSpec) -> None:
    """Its base class imports pyplot for `Metric.plot`, unless its list of what is installed says that it is not."""
    name = "torchmetrics.utilities.imports"
    (folder,) = torchmetrics.submodule_search_locations or [""]
    spec = spec_from_file_location(name, Path(folder, "utilities", "imports.py"))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.__dict__["_MATPLOTLIB_AVAILABLE"] = False
    sys.modules[name] = module
