"""JSON lines by number: only where each line begins is kept. A JSON list is read whole."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.formats.json_rows import BrokenFile, json_rows
from datamodules.formats.tables.table import RowByRow, columns_of, object_in


class LinesTable:
    """One or several `.jsonl` files (or `.json` files of that form). `columns` are the keys of the first row."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self.starts = [_starts(file) for file in self.files]
        self.ends: list[int] = []
        for starts in self.starts:
            self.ends.append((self.ends[-1] if self.ends else 0) + len(starts))
        self.columns = columns_of(self)

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def row(self, place: int) -> dict[str, Any]:
        file, inside = self._find(place)
        with open(self.files[file], "rb") as stream:
            stream.seek(self.starts[file][inside])
            return object_in(stream.readline(), "it")

    def rows(self) -> Iterator[dict[str, Any] | ValueError]:
        for file in self.files:
            with open(file, "rb") as stream:
                for line in stream:
                    if line.strip():
                        try:
                            yield object_in(line, "it")
                        except ValueError as error:
                            yield error

    def where(self, place: int) -> str:
        file, inside = self._find(place)
        return f"{self.files[file].name}, row {inside + 1}"

    def _find(self, place: int) -> tuple[int, int]:
        file = next(number for number, end in enumerate(self.ends) if place < end)
        return file, place - (self.ends[file - 1] if file else 0)


class ListTable(RowByRow):
    """JSON lists, read whole."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.values = [(file.name, row.number, row.value) for file in files for row in json_rows(file)]
        self.columns = columns_of(self)

    def __len__(self) -> int:
        return len(self.values)

    def row(self, place: int) -> dict[str, Any]:
        value = self.values[place][2]
        if not isinstance(value, dict):
            raise ValueError(f"it is a {type(value).__name__}; an object is needed")
        return dict(value)

    def where(self, place: int) -> str:
        file, number, _ = self.values[place]
        return f"{file}, row {number}"


def _starts(file: Path) -> array[int]:
    starts, place = array("q"), 0
    with open(file, "rb") as stream:
        for line in stream:
            if line.strip():
                starts.append(place)
            place += len(line)
    if not starts:
        raise BrokenFile(f"{file} is empty; one JSON object a line is expected")
    return starts
