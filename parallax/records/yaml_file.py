"""YAML of others as plain data, within bounds: a file of a few lines can name itself, or stand for more than any memory holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 16 << 20
MOST_VALUES = 100_000  # with every alias written out, as all who walk through it meet them


def read_yaml(path: Path) -> Any:
    """The content of a file. Raises OSError, and ValueError in words."""
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} has more than {MOST_BYTES >> 20} MiB, which no configuration has")
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, RecursionError, OverflowError) as error:
        why = " ".join(str(error).split()) or "it is nested too deeply"
        raise ValueError(f"{path} cannot be read as YAML: {why}") from error
    require_bounds(content, path)
    return content


def require_bounds(content: object, path: Path | str) -> None:
    """Raise ValueError where a file's content stands for more than a configuration needs."""
    left, count = [content], 0
    while left:
        value = left.pop()
        count += 1
        if count > MOST_VALUES:
            raise ValueError(
                f"{path} stands for more than {MOST_VALUES:,} values (its aliases name each other, or themselves)"
            )
        if isinstance(value, dict):
            left.extend(value.values())
        elif isinstance(value, list | tuple | set):
            left.extend(value)
