"""Rows of a JSON list or of JSON lines, one at a time: a file of gigabytes needs no more memory than its largest row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from datamodules.formats.json_scan import BrokenFile, Scan

__all__ = ["BrokenFile", "Row", "json_rows"]

CHUNK = 1 << 20  # characters read at a time
HALF = "it holds half a character (a lone surrogate such as \\ud800), which is no text"


@dataclass(frozen=True, slots=True)
class Row:
    """One row, numbered from 1. `error` says why `value` could not be read."""

    number: int
    value: Any = None
    error: str | None = None

    def __post_init__(self) -> None:
        if self.error is None and not is_text(self.value):
            object.__setattr__(self, "value", None)
            object.__setattr__(self, "error", HALF)


def is_text(value: object) -> bool:
    """Whether every string inside, however deep, can be written as UTF-8."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            try:
                one.isascii() or one.encode()
            except UnicodeEncodeError:
                return False
        elif isinstance(one, dict):
            left += [*one, *one.values()]
        elif isinstance(one, list | tuple):
            left += one
    return True


def json_rows(path: Path | str) -> Iterator[Row]:
    """Rows of a `.json` list or of JSON lines; which of the two it is shows in the first character.

    A line that is no JSON comes as a row with an error. A list that breaks off raises `BrokenFile`: what is behind the break
    cannot be found.
    """
    file = Path(path)
    try:
        with open(file, encoding="utf-8-sig") as stream:
            scan = Scan(stream, file, CHUNK)
            first = scan.peek()
            if first == "[":
                yield from (Row(number, value) for number, value in enumerate(scan.items(), start=1))
            elif first == "{":
                stream.seek(0)
                yield from _lines(stream)
            elif first:
                raise BrokenFile(f"{file} starts with {first!r}; a JSON list starts with '[' and JSON lines with '{{'")
    except UnicodeDecodeError as error:
        raise BrokenFile(
            f"{file} is not UTF-8 text ({error.reason} at byte {error.start}); convert it first"
        ) from error


def _lines(stream: IO[str]) -> Iterator[Row]:
    number = 0
    for place, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        number += 1
        try:
            yield Row(number, json.loads(line))
        except (ValueError, RecursionError) as error:
            yield Row(number, error=f"it is no JSON (line {place}: {error})")
