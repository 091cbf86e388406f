"""Tables of comma-separated values by row number: `.csv` (also with semicolons, tabs or bars) and `.tsv`.

The first line names the columns. Cells in quotes may hold the separator and line breaks; an empty cell is none.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from datamodules.formats.tables.lines_table import LinesTable

csv.field_size_limit(1 << 27)  # characters of a cell: a picture in base64 is one
SEPARATORS = ",;\t|"


class CsvTable(LinesTable):
    """One or several such files of the same columns."""

    @classmethod
    def begins(cls, file: Path) -> Iterator[int]:
        """The byte that each row begins at: cells in quotes may hold line breaks, so all are read."""
        with open(file, "rb") as stream:
            yield from (start for start, _ in cls.records(stream, file))

    @staticmethod
    def records(stream: IO[bytes], file: Path) -> Iterator[tuple[int, dict[str, Any] | ValueError]]:
        """Each row with the byte it begins at."""
        place = 0

        def lines() -> Iterator[str]:
            nonlocal place
            for line in stream:
                place += len(line)
                yield line.decode("utf-8", "surrogateescape")  # what is no UTF-8 is told row by row

        names, separator = _head(stream, file)
        stream.seek(0)
        rows, start = csv.reader(lines(), delimiter=separator), 0
        while True:
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield start, _no_row(error)
                start = place
                continue
            if start and cells:
                yield start, _row(names, cells)
            start = place

    @staticmethod
    def record(stream: IO[bytes], file: Path, start: int) -> dict[str, Any]:
        """The row that begins at a byte."""
        names, separator = _head(stream, file)
        stream.seek(start)
        lines = (line.decode("utf-8", "surrogateescape") for line in stream)
        try:
            made = _row(names, next(csv.reader(lines, delimiter=separator)))
        except csv.Error as error:
            made = _no_row(error)
        if isinstance(made, ValueError):
            raise made
        return made


def _head(stream: IO[bytes], file: Path) -> tuple[list[str], str]:
    """The names of the columns and what stands between cells."""
    stream.seek(0)
    line = stream.readline().decode("utf-8-sig", "replace").strip("\r\n")
    separator = "\t" if file.suffix.lower() == ".tsv" else max(SEPARATORS, key=line.count)
    try:
        names = next(csv.reader([line], delimiter=separator), [])
    except csv.Error as error:
        raise ValueError(f"{file}, first line: {_no_row(error)}") from error
    if len(set(names)) != len(names):
        raise ValueError(f"{file} names a column twice in its first line; give each a name of its own")
    return names, separator


def _no_row(error: csv.Error) -> ValueError:
    return ValueError(f"it is no row of comma-separated values ({error})")


def _row(names: list[str], cells: list[str]) -> dict[str, Any] | ValueError:
    if len(cells) > len(names):
        return ValueError(f"it has {len(cells)} cells, and the first line names {len(names)} columns")
    if any(cell != cell.encode("utf-8", "replace").decode() for cell in cells):
        return ValueError("it is not UTF-8 text")
    return {name: cell or None for name, cell in zip(names, cells, strict=False) if name}
