"""Rows of a JSON list or of JSON lines, one at a time: a file of gigabytes needs no more memory than its largest row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

CHUNK = 1 << 20  # characters read at a time
LARGEST_ROW = 1 << 26  # characters; a row that is longer is taken for a damaged file


class BrokenFile(ValueError):
    """A file that cannot be read to its end. The message names the file and the row."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row, numbered from 1. `error` says why `value` could not be read."""

    number: int
    value: Any = None
    error: str | None = None

    def __post_init__(self) -> None:
        if self.error is None and not _is_text(self.value):
            object.__setattr__(self, "value", None)
            object.__setattr__(
                self, "error", "it holds half a character (a lone surrogate such as \\ud800), which is no text"
            )


def _is_text(value: Any) -> bool:
    """Whether every string inside can be written as UTF-8."""
    if isinstance(value, str):
        try:
            return value.isascii() or bool(value.encode())
        except UnicodeEncodeError:
            return False
    if isinstance(value, dict):
        return all(_is_text(key) and _is_text(item) for key, item in value.items())
    return all(map(_is_text, value)) if isinstance(value, list) else True


def json_rows(path: Path | str) -> Iterator[Row]:
    """Rows of a `.json` list or of JSON lines; which of the two it is shows in the first character.

    A line that is no JSON comes as a row with an error. A list that breaks off raises `BrokenFile`: what is behind the break
    cannot be found.
    """
    file = Path(path)
    try:
        with open(file, encoding="utf-8-sig") as stream:
            first = _first_character(stream)
            stream.seek(0)
            if first == "[":
                yield from _list_rows(stream, file)
            elif first == "{":
                yield from _lines(stream)
            elif first:
                raise BrokenFile(f"{file} starts with {first!r}; a JSON list starts with '[' and JSON lines with '{{'")
    except UnicodeDecodeError as error:
        raise BrokenFile(
            f"{file} is not UTF-8 text ({error.reason} at byte {error.start}); convert it first"
        ) from error


def _first_character(stream: IO[str]) -> str:
    while chunk := stream.read(4096):
        if stripped := chunk.lstrip("\ufeff \t\r\n"):
            return stripped[0]
    return ""


def _lines(stream: IO[str]) -> Iterator[Row]:
    number = 0
    for line in stream:
        if not line.strip():
            continue
        number += 1
        try:
            yield Row(number, json.loads(line))
        except (ValueError, RecursionError) as error:
            yield Row(number, error=f"it is no JSON ({error})")


def _list_rows(stream: IO[str], file: Path) -> Iterator[Row]:
    decoder = json.JSONDecoder()
    text, place, number, more = "", 0, 0, True
    expect_row = False  # a comma was seen

    def read(at_least: int) -> None:
        nonlocal text, place, more
        chunk = stream.read(max(CHUNK, at_least))
        more = bool(chunk)
        text, place = text[place:] + chunk, 0

    while "[" not in text:  # white space in front of the list
        read(0)
    place = text.index("[") + 1
    while True:
        while place < len(text) and text[place] in " \t\r\n":
            place += 1
        if place == len(text):
            if not more:
                raise BrokenFile(f"{file} breaks off after row {number}; it is incomplete, fetch it again")
            read(0)
            continue
        if text[place] == "]":
            return
        if number and not expect_row:
            if text[place] != ",":
                raise BrokenFile(f"{file} has {text[place]!r} after row {number} where a comma or the end should be")
            place, expect_row = place + 1, True
            continue
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            if more and len(text) - place < LARGEST_ROW and not isinstance(error, RecursionError):
                read(len(text) - place)  # as much again, so that a long row costs linear time
                continue
            raise BrokenFile(
                f"{file} cannot be read from row {number + 1} on ({error}); it is incomplete or damaged"
            ) from error
        number, expect_row = number + 1, False
        yield Row(number, value)
        place = end
