"""Parquet files by row number. Pictures stay in the file; texts are read a row group at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.formats.json_rows import HALF
from datamodules.formats.json_scan import BrokenFile
from datamodules.formats.parquet_image import ParquetImage, opened

if TYPE_CHECKING:
    import pyarrow


class ParquetTable:
    """One or several Parquet files of the same columns; at least one."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = [str(file) for file in files]
        self.names = [Path(file).name for file in files]
        self.groups: list[tuple[int, int]] = []  # (file, row group)
        self.starts: list[int] = []  # first row of each group
        self.file_starts: list[int] = []
        self.total = 0
        columns: tuple[str, ...] | None = None
        for number, file in enumerate(self.files):
            read = opened(file)
            names = tuple(read.schema_arrow.names)
            if columns is not None and set(names) != set(columns):
                odd = sorted(set(names) ^ set(columns))
                raise ValueError(
                    f"{file} has other columns than {self.files[0]} ({odd[0]}); give files of one set only"
                )
            columns = columns or names
            self.pictures = [name for name in names if _is_picture(read.schema_arrow.field(name).type)]
            self.file_starts.append(self.total)
            for group in range(read.num_row_groups):
                self.groups.append((number, group))
                self.starts.append(self.total)
                self.total += read.metadata.row_group(group).num_rows
        self.columns = columns or ()

    def __len__(self) -> int:
        return self.total

    def row(self, place: int) -> dict[str, Any]:
        group = bisect_right(self.starts, place) - 1
        number, inside_file = self.groups[group]
        inside = place - self.starts[group]
        leaves = self._leaves(number)
        (texts,) = _cells(_texts(self.files[number], inside_file, tuple(leaves)).slice(inside, 1))
        if isinstance(texts, ValueError):
            raise texts
        return self._row(texts, number, inside_file, inside, place)

    def rows(self) -> Iterator[dict[str, Any] | ValueError]:
        place, group = 0, 0
        for number, file in enumerate(self.files):
            leaves = self._leaves(number)
            for batch in _batches(file, leaves):
                for row in _cells(batch):
                    while group + 1 < len(self.starts) and place >= self.starts[group + 1]:
                        group += 1
                    yield self._row(row, number, self.groups[group][1], place - self.starts[group], place)
                    place += 1
            if place != (end := [*self.file_starts, self.total][number + 1]):
                raise BrokenFile(
                    f"{file} breaks off {end - place:,} rows before the end its footer tells; fetch it again"
                )

    def rows_at(self, places: Sequence[int]) -> Iterator[dict[str, Any] | ValueError]:
        at = 0
        for group, start in enumerate(self.starts):
            end = self.starts[group + 1] if group + 1 < len(self.starts) else self.total
            if at == len(places) or places[at] >= end:
                continue
            number, inside_file = self.groups[group]
            leaves, first = self._leaves(number), start
            for batch in _batches(self.files[number], leaves, [inside_file]):
                while at < len(places) and places[at] < first + len(batch):
                    (row,) = _cells(batch.slice(places[at] - first, 1))
                    yield self._row(row, number, inside_file, places[at] - start, places[at])
                    at += 1
                first += len(batch)
                if at == len(places) or places[at] >= end:
                    break

    def where(self, place: int) -> str:
        file = bisect_right(self.file_starts, place) - 1
        return f"{self.names[file]}, row {place - self.file_starts[file] + 1}"

    def _leaves(self, number: int) -> list[str]:
        """What is read of a file's columns: all of texts, and of pictures the paths beside the bytes, which say how many."""
        return [_path_of(self.files[number], name) or name if name in self.pictures else name for name in self.columns]

    def _row(self, row: Any, number: int, group: int, inside: int, place: int) -> Any:
        file = self.files[number]
        if isinstance(row, ValueError):
            return row
        for name in self.pictures:
            handle = ParquetImage(
                file, group, inside, name, f"{self.names[number]}:{place - self.file_starts[number] + 1}"
            )
            row[name] = _told(row[name], handle, _with_bytes(file, group, name, inside))
        return row


BATCH = 1024  # rows read at a time


def _batches(file: str, columns: list[str], groups: list[int] | None = None, size: int = BATCH) -> Iterator[Any]:
    with _whole(file):
        yield from opened(file).iter_batches(size, row_groups=groups, columns=columns)


def _cells(batch: Any) -> list[Any]:
    """The rows of a batch or table as mappings; in place of one whose texts are none, the error that says so."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        rows = range(len(batch))
        return [ValueError(HALF)] if len(batch) == 1 else [one for row in rows for one in _cells(batch.slice(row, 1))]


@contextmanager
def _whole(file: str) -> Iterator[None]:
    """Raise BrokenFile for what is found damaged while the file is read."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise BrokenFile(f"{file} is damaged ({error}); fetch it again") from error


@lru_cache(maxsize=4)
def _texts(file: str, group: int, columns: tuple[str, ...]) -> Any:
    with _whole(file):
        return opened(file).read_row_group(group, columns=list(columns))


@lru_cache(maxsize=256)
def _path_of(file: str, column: str) -> str | None:
    """The leaf that holds the paths of a column of pictures, where it has any."""
    schema = opened(file).metadata.schema
    leaves = [schema.column(place).path for place in range(len(schema))]
    return next((leaf for leaf in leaves if leaf.startswith(f"{column}.") and leaf.endswith(".path")), None)


@lru_cache(maxsize=256)
def _missing(file: str, group: int, column: str) -> bool | None:
    """Whether a row group holds the bytes of none (True) or of all (False) of a column's pictures; None where of some."""
    metadata, path = opened(file).metadata, _path_of(file, column)
    if path is None:
        return False
    leaf = path.removesuffix("path") + "bytes"
    place = next(place for place in range(metadata.num_columns) if metadata.schema.column(place).path == leaf)
    part = metadata.row_group(group).column(place)
    if part.statistics is None or not part.statistics.has_null_count:
        return None
    return not part.statistics.num_values if not (part.statistics.null_count and part.statistics.num_values) else None


@lru_cache(maxsize=4)
def _present(file: str, group: int, column: str) -> list[Any]:
    """Of each row of a group: whether the bytes of its picture, or of each of its pictures, are there."""
    import pyarrow

    found: list[Any] = []
    for batch in _batches(file, [column], [group], size=64):
        pictures = batch.column(0)
        if not isinstance(pictures, pyarrow.ListArray | pyarrow.LargeListArray):
            found += pictures.field("bytes").is_valid().to_pylist()
            continue
        inside = pictures.values.field("bytes").is_valid()
        found += type(pictures).from_arrays(pictures.offsets, inside).to_pylist()
    return found


def _with_bytes(file: str, group: int, column: str, inside: int) -> Any:
    missing = _missing(file, group, column)
    return _present(file, group, column)[inside] if missing is None else not missing


def _told(item: object, handle: ParquetImage, embedded: Any) -> Any:
    """The handle, a list of as many as the row's list holds, a path where only that is stored, or None."""
    if isinstance(item, list):
        each = embedded if isinstance(embedded, list) else [embedded] * len(item)
        return [
            _told(one, replace(handle, index=index) if index else handle, each[index]) for index, one in enumerate(item)
        ]
    if item is None or embedded:
        return None if item is None else handle
    return item.get("path") if isinstance(item, dict) else item


def _is_picture(kind: pyarrow.DataType) -> bool:
    """Whether a column holds pictures: bytes, bytes beside a path as `datasets` stores them, or lists of these."""
    import pyarrow

    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        return _is_picture(kind.value_type)
    if pyarrow.types.is_struct(kind):
        fields = {kind.field(number).name: kind.field(number).type for number in range(kind.num_fields)}
        return "bytes" in fields and _is_picture(fields["bytes"])
    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))
