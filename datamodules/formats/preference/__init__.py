"""Formats of preference files, a file for each family of them.

Every module here that has a `FORMATS` tuple adds to the table; nothing else has to know of it.
"""

from __future__ import annotations

import importlib
import pkgutil

from datamodules.formats.preference.base import Choices, Format, RawPair, Row, Said

__all__ = ["FORMATS", "Choices", "Format", "RawPair", "Row", "Said", "recognised"]


def _found() -> tuple[Format, ...]:
    modules = sorted(module.name for module in pkgutil.iter_modules(__path__))
    formats = [
        found for name in modules for found in getattr(importlib.import_module(f"{__name__}.{name}"), "FORMATS", ())
    ]
    return tuple(sorted(formats, key=lambda found: -found.weight))


_TABLE = _found()
FORMATS = {name: found for found in _TABLE for name in found.names}


def recognised(row: Row) -> Format | None:
    """The format of a row, or None for one that no format knows."""
    return next((found for found in _TABLE if found.recognise(row)), None)
