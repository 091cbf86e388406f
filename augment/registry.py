"""Views by name, and between views and the records that name them.

A `ViewSpec` (name, arguments, seed) determines the corrupted image completely; `view_from_spec` brings the view back.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

import augment
from augment.view import View, build
from parallax.records import ViewSpec

for _module in iter_modules(augment.__path__):  # importing registers, so a new view needs its file and nothing else
    if _module.name != "registry":
        import_module(f"augment.{_module.name}")


def view_names() -> list[str]:
    """Names of all views, sorted; each has a file in conf/aug."""
    return sorted(View.registered)


def view_from_spec(spec: ViewSpec) -> View:
    """The view a spec names. Raises ValueError for unknown names and arguments out of range."""
    return build({"name": spec.name, **spec.params})


def spec_of(view: View, seed: int) -> ViewSpec:
    """The record of a view and its seed. Views without chance get seed 0, so that their candidates are shared."""
    return ViewSpec(name=view.name, params=view.params(), seed=seed if view.is_random else 0)
