"""What a table is."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from datamodules.formats.json_rows import HALF, is_text
from datamodules.formats.listed import kind_of
from parallax.records.images import EXTENSIONS
from parallax.records.sample import BadImage, ImageRef

TEXTS = ("txt", "text", "caption", "cls")  # endings of members that are texts


class Table(Protocol):
    """Rows by number, from 0. A column of pictures holds an `ImageRef`, or a list of them, in place of bytes."""

    columns: tuple[str, ...]

    def __len__(self) -> int: ...

    def row(self, place: int) -> dict[str, Any]:
        """One row. Raises ValueError, in words, for one that cannot be read."""
        ...

    def rows(self) -> Iterator[dict[str, Any] | ValueError]:
        """All rows in order, read as cheaply as can be; in place of one that cannot be read, the error that says why."""
        ...

    def rows_at(self, places: Sequence[int]) -> Iterator[dict[str, Any] | ValueError]:
        """As `rows`, of these places only, which are in order."""
        ...

    def where(self, place: int) -> str:
        """A row's place in words: `part-0.parquet, row 12`."""
        ...


class ByNumber(ABC):
    """A table whose rows are found by number."""

    @abstractmethod
    def row(self, place: int) -> dict[str, Any]:
        """As `Table.row`."""

    def rows_at(self, places: Sequence[int]) -> Iterator[dict[str, Any] | ValueError]:
        """As `Table.rows_at`."""
        for place in places:
            try:
                yield self.row(place)
            except ValueError as error:
                yield error


class RowByRow(ByNumber):
    """A table whose rows are read one by one."""

    columns: tuple[str, ...]

    @abstractmethod
    def __len__(self) -> int: ...

    def rows(self) -> Iterator[dict[str, Any] | ValueError]:
        """As `Table.rows`."""
        return self.rows_at(range(len(self)))


def columns_of(table: Table) -> tuple[str, ...]:
    """The keys of a table's first row; none where it has no row that can be read."""
    first = next(table.rows(), None)
    return tuple(first) if isinstance(first, dict) else ()


def object_in(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object in `data`. Raises ValueError, in words that begin with `name`, for anything else."""
    try:
        value = json.loads(data)
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {kind_of(value)}; an object is needed")
    if b"\\u" in data and not is_text(value):
        raise ValueError(HALF)
    return value


def member_value(extension: str, image: ImageRef, data: Callable[[], bytes]) -> dict[str, Any]:
    """What a member of an archive adds to its row: a picture as a handle, the keys of a JSON object, a text.

    Raises ValueError, in words, for a member that cannot be read.
    """
    if f".{extension.rpartition('.')[2]}" in EXTENSIONS:
        return {extension: image}
    try:
        if extension == "json":
            return object_in(data(), "its json")
        if extension.rpartition(".")[2] in TEXTS:
            name = extension.rpartition(".")[0] or extension  # `question.txt` is the column question
            return {name: data().decode("utf-8").strip()}
    except UnicodeDecodeError as error:
        raise ValueError(f"its {extension} is not UTF-8 text") from error
    except BadImage as error:
        raise ValueError(str(error).replace("image ", "its member ", 1)) from error
    return {}


def check_members(file: str | Path, names: Iterable[str]) -> None:
    """Raises ValueError for an archive that holds a file of rows, or another archive, and no rows of its own."""
    for name in names:
        if name.lower().endswith((".jsonl", ".ndjson", ".parquet", ".arrow", ".csv", ".tsv", ".zip", ".tar", ".gz")):
            raise ValueError(f"{file} holds {name}, which is read on its own; unpack the archive and give the folder")


def holds_bytes(value: object) -> bool:
    """Whether a value is a picture as `datasets` stores it: bytes, or a mapping with bytes."""
    if isinstance(value, dict):
        return isinstance(value.get("bytes"), bytes) and bool(value["bytes"])
    return isinstance(value, bytes) and bool(value)
