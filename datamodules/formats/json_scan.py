"""A JSON file of any size, read value by value: never more in memory than a chunk and the value at hand.

>>> scan = Scan(stream, Path("file.json"))
>>> for value in scan.items(): ...       # the items of a list
>>> for key in scan.entries(): ...          # the keys of an object; each value is then read, or passed over
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

CHUNK = 1 << 20  # characters read at a time
LARGEST_VALUE = 1 << 26  # characters; a value that is longer is taken for damage


class BrokenFile(ValueError):
    """A file that cannot be read to its end. The message names the file and the place."""


class Scan:
    """A cursor in a JSON text. Every fault raises `BrokenFile` with the line and what was expected there.

    Args:
        stream: the open text, at its beginning.
        file: for messages.
        chunk: characters read at a time.
    """

    def __init__(self, stream: IO[str], file: Path, chunk: int = CHUNK) -> None:
        self.stream, self.file, self.chunk = stream, file, chunk
        self.text, self.place, self.more = "", 0, True
        self.line = 1  # of `counted`, which is at or before `place`
        self._counted = 0
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is no white space; "" at the end of the file."""
        while True:
            while self.place < len(self.text) and self.text[self.place] in "\ufeff \t\r\n":
                self.place += 1
            if self.place < len(self.text):
                return self.text[self.place]
            if not self.more:
                return ""
            self._read(0)

    def take(self, character: str, where: str) -> None:
        """Step over a character that has to be next."""
        found = self.peek()
        if found != character:
            raise self.fault(f"{found!r} {where} where {character!r} should be" if found else f"the end {where}")
        self.place += 1

    def value(self, what: str) -> Any:
        """The next value as a whole. `what` names it in a message: "row 3"."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self.text, self.place)
            except (ValueError, RecursionError) as error:
                short = len(self.text) - self.place < LARGEST_VALUE
                if self.more and short and not isinstance(error, RecursionError):
                    self._read(len(self.text) - self.place)  # as much again, so that a long value costs linear time
                    continue
                raise BrokenFile(
                    f"{self.file} cannot be read from {what} on (line {self.here()}: {_reason(error)}); it is incomplete or "
                    "damaged, fetch it again"
                ) from error
            if end == len(self.text) and self.more and isinstance(value, int | float):
                self._read(len(self.text) - self.place)  # a number may go on
                continue
            self.place = end
            return value

    def values(self) -> Iterator[Any]:
        """Values one after the other, with or without commas between them, to the end of the file."""
        number = 0
        while found := self.peek():
            if found == ",":
                self.place += 1
                continue
            number += 1
            yield self.value(f"row {number}")

    def items(self, what: str = "row") -> Iterator[Any]:
        """The items of a list that begins here."""
        self.take("[", "at the beginning")
        number = 0
        while True:
            found = self.peek()
            if found == "":
                raise BrokenFile(f"{self.file} breaks off after {what} {number}; it is incomplete, fetch it again")
            if found == "]":
                self.place += 1
                return
            if number:
                if found != ",":
                    raise BrokenFile(
                        f"{self.file}, line {self.here()}, has {found!r} after {what} {number} where a comma or the end should be"
                    )
                self.place += 1
            number += 1
            yield self.value(f"{what} {number}")

    def entries(self) -> Iterator[str]:
        """The keys of an object that begins here; the caller reads each value before it asks for the next key."""
        self.take("{", "at the beginning")
        first = True
        while (found := self.peek()) != "}":
            if not first:
                self.take(",", "after a value")
            elif found == "":
                break
            first = False
            key = self.value("a key")
            if not isinstance(key, str):
                raise self.fault(f"{key!r} where a key in quotes should be")
            self.take(":", f"after the key {key!r}")
            yield key
        self.take("}", "after the last value")

    def here(self) -> int:
        """The line of the cursor, from 1."""
        self.line += self.text.count("\n", self._counted, self.place)
        self._counted = self.place
        return self.line

    def fault(self, why: str) -> BrokenFile:
        return BrokenFile(f"{self.file}, line {self.here()}, has {why}; it is incomplete or damaged, fetch it again")

    def _read(self, at_least: int) -> None:
        self.here()
        chunk = self.stream.read(max(self.chunk, at_least))
        self.more = bool(chunk)
        self.text, self.place, self._counted = self.text[self.place :] + chunk, 0, 0


def sections(path: Path | str, wanted: set[str]) -> Iterator[tuple[str, Any]]:
    """(key, item) for every item of those lists of a big JSON object that are `wanted`; all else is passed over.

    Raises `BrokenFile`, also when a wanted list is missing or is no list.
    """
    file = Path(path)
    seen = set()
    with open(file, encoding="utf-8-sig") as stream:
        scan = Scan(stream, file)
        if (found := scan.peek()) != "{":
            raise BrokenFile(
                f"{file} starts with {found!r}; an object with the lists {', '.join(sorted(wanted))} is expected"
            )
        for key in scan.entries():
            if scan.peek() == "[":
                for item in scan.items(f"item of {key!r}, number"):
                    if key in wanted:
                        yield key, item
                seen.add(key)
            else:
                scan.value(f"the value of {key!r}")
    if missing := sorted(wanted - seen):
        raise BrokenFile(
            f"{file} has no list {missing[0]!r}; the official file has the lists {', '.join(sorted(wanted))}"
        )


def _reason(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error) or type(error).__name__
