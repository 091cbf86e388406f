"""Rows of a JSON list or of JSON lines, one at a time: a file of gigabytes needs no more memory than its largest row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Literal

from datamodules.formats.json_scan import BrokenFile, Scan

__all__ = ["BrokenFile", "Row", "json_rows"]

CHUNK = 1 << 20  # characters read at a time
WRAPPERS = (
    "data",
    "rows",
    "items",
    "examples",
    "samples",
    "instances",
    "annotations",
)  # names of a list of rows in an object
HALF = "it holds what is no text: half a character (a lone surrogate such as \\ud800), or a byte that is not UTF-8"


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


def layout(path: Path | str) -> Literal["list", "lines", "object"]:
    """How a JSON file holds its rows: as a list, as an object on each line, or inside one object. Raises `BrokenFile`."""
    file = Path(path)
    with _opened(file) as stream:
        if (first := _first(Scan(stream, file, 4096), file)) != "{":
            return "list" if first == "[" else "lines"
        stream.seek(0)
        line = next(line for line in stream if line.strip())
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            return "lines" if line.rstrip().endswith("}") else "object"
        more = any(line.strip() for line in stream)
        return "lines" if more or _inside(value, "train") == [value] else "object"


def _first(scan: Scan, file: Path) -> str:
    if not is_text(first := scan.peek()):
        raise BrokenFile(f"{file} is not UTF-8 text from its first byte on; convert it first")
    return first


def _opened(file: Path) -> IO[str]:
    """Bytes that are no UTF-8 come as lone surrogates, so that they cost the row they stand in and not the file."""
    return open(file, encoding="utf-8-sig", errors="surrogateescape")


def _inside(value: object, split: str) -> list[Any]:
    """The rows one object holds: under a split's name or a usual word, by key, by column as pandas writes it, or itself."""
    if not isinstance(value, dict):
        return [value]
    for name in (split, *(name for name in WRAPPERS if split == "train")):
        if isinstance(rows := value.get(name), list) and all(isinstance(row, dict) for row in rows):
            return rows
    cells = list(value.values())
    if all(isinstance(cell, dict) and cell.keys() == cells[0].keys() for cell in cells) and "0" in (cells or [{}])[0]:
        return [{name: cell[number] for name, cell in value.items()} for number in cells[0]]
    if cells and all(isinstance(cell, dict) for cell in cells):
        return [{"id": name, **cell} for name, cell in value.items()]
    is_list = all(isinstance(cell, list) and not any(isinstance(one, dict) for one in cell) for cell in cells)
    if is_list and len({len(cell) for cell in cells}) == 1 and len(cells) > 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*cells, strict=True)]
    return [value]


def _unwrapped(value: object) -> list[Any]:
    """The rows of a list that stands in a list, as in LLaVA-RLHF's file; anything else is a row itself."""
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        return value
    return [value]


def json_rows(path: Path | str, split: str = "train") -> Iterator[Row]:
    """Rows of a `.json` list, of JSON lines, of objects one after the other, or of one that holds a list of rows (see `layout`).

    A line that is no JSON comes as a row with an error. A list that breaks off raises `BrokenFile`: what is behind the break
    cannot be found.
    """
    file = Path(path)
    with _opened(file) as stream:
        scan = Scan(stream, file, CHUNK)
        first = _first(scan, file)
        if first == "[":
            rows: Iterator[Any] = (row for value in scan.items() for row in _unwrapped(value))
            yield from (Row(number, value) for number, value in enumerate(rows, start=1))
        elif first == "{" and layout(file) == "object":
            values = scan.values()
            head = list(islice(values, 2))
            rows = chain(head, values) if len(head) > 1 else iter(_inside(head[0], split))
            yield from (Row(number, value) for number, value in enumerate(rows, start=1))
        elif first == "{":
            stream.seek(0)
            yield from _lines(stream)
        elif first:
            raise BrokenFile(f"{file} starts with {first!r}; a JSON list starts with '[' and JSON lines with '{{'")


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
