"""JSON lines by number: only where each line begins is kept. A JSON list is read whole."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

from datamodules.formats.json_rows import Row, json_rows
from datamodules.formats.listed import kind_of
from datamodules.formats.tables.table import ByNumber, RowByRow, columns_of, object_in

BOM = b"\xef\xbb\xbf"


class LinesTable(ByNumber):
    """One or several `.jsonl` files (or `.json` files of that form). `columns` are the keys of the first row."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self.columns = columns_of(self)

    @cached_property
    def starts(self) -> list[array[int]]:
        """Where each line of each file begins, in bytes. Found out when rows are first asked for by number."""
        return [array("q", self.begins(file)) for file in self.files]

    @cached_property
    def ends(self) -> list[int]:
        """Rows up to the end of each file."""
        return list(accumulate(map(len, self.starts)))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def row(self, place: int) -> dict[str, Any]:
        file, inside = self._find(place)
        with open(self.files[file], "rb") as stream:
            return self.record(stream, self.files[file], self.starts[file][inside])

    def rows(self) -> Iterator[dict[str, Any] | ValueError]:
        for file in self.files:
            yield from (row for _, row in self._records(file))

    def _records(self, file: Path) -> Iterator[tuple[int, dict[str, Any] | ValueError]]:
        with open(file, "rb") as stream:
            yield from self.records(stream, file)

    @classmethod
    def begins(cls, file: Path) -> Iterator[int]:
        """The byte that each row begins at; no row is read for it."""
        place = 0
        with open(file, "rb") as stream:
            for line in stream:
                if not line.isspace():
                    yield place
                place += len(line)

    @staticmethod
    def records(stream: IO[bytes], file: Path) -> Iterator[tuple[int, dict[str, Any] | ValueError]]:
        """Each row with the byte it begins at."""
        place = 0
        for line in stream:
            if line.strip():
                try:
                    yield place, object_in(line.removeprefix(BOM), "it")
                except ValueError as error:
                    yield place, error
            place += len(line)

    @staticmethod
    def record(stream: IO[bytes], file: Path, start: int) -> dict[str, Any]:
        """The row that begins at a byte."""
        stream.seek(start)
        return object_in(stream.readline().removeprefix(BOM), "it")

    def where(self, place: int) -> str:
        file, inside = self._find(place) if len(self.files) > 1 else (0, place)
        return f"{self.files[file].name}, row {inside + 1}"

    def _find(self, place: int) -> tuple[int, int]:
        file = bisect_right(self.ends, place)
        return file, place - (self.ends[file - 1] if file else 0)


class ListTable(RowByRow):
    """JSON lists, and objects that hold one: a stream from beginning to end; whole, once, when rows are asked for by number."""

    def __init__(self, files: Sequence[Path], split: str = "train") -> None:
        self.files, self.split = list(files), split
        self.columns = columns_of(self)

    def __len__(self) -> int:
        return len(self._values)

    def row(self, place: int) -> dict[str, Any]:
        return _object(self._values[place][1])

    def rows(self) -> Iterator[dict[str, Any] | ValueError]:
        for file in self.files:
            for row in json_rows(file, self.split):
                try:
                    yield _object(row)
                except ValueError as error:
                    yield error

    def where(self, place: int) -> str:
        if len(self.files) == 1:
            return f"{self.files[0].name}, row {place + 1}"
        file, row = self._values[place]
        return f"{file}, row {row.number}"

    @cached_property
    def _values(self) -> list[tuple[str, Row]]:
        return [(file.name, row) for file in self.files for row in json_rows(file, self.split)]


def _object(row: Row) -> dict[str, Any]:
    if row.error is not None:
        raise ValueError(row.error)
    if not isinstance(row.value, dict):
        raise ValueError(f"it is {kind_of(row.value)}; an object is needed")
    return dict(row.value)
