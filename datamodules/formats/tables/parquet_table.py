"""Parquet files by row number. Pictures stay in the file; texts are read a row group at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from datamodules.formats.parquet_image import ParquetImage

PICTURES = (
    "image",
    "images",
    "jpg",
    "png",
    "picture",
    "photo",
)  # names under which bytes are taken for pictures unasked


class ParquetTable:
    """One or several Parquet files of the same columns.

    Args:
        files: at least one.
        pictures: columns that hold pictures, beside those that the files themselves say so of.
    """

    def __init__(self, files: Sequence[Path], pictures: Sequence[str] = ()) -> None:
        self.files = [str(file) for file in files]
        self.groups: list[tuple[int, int]] = []  # (file, row group)
        self.starts: list[int] = []
        self.total = 0
        columns: tuple[str, ...] | None = None
        for number, file in enumerate(self.files):
            schema, sizes = _shape(file)
            names = tuple(schema.names)
            if columns is not None and names != columns:
                odd = sorted(set(names) ^ set(columns)) or ["their order"]
                raise ValueError(
                    f"{file} has other columns than {self.files[0]} ({odd[0]}); give files of one set only"
                )
            columns = names
            self.pictures = [name for name in names if name in pictures or _is_picture(schema.field(name).type)]
            for group, rows in enumerate(sizes):
                self.groups.append((number, group))
                self.starts.append(self.total)
                self.total += rows
        self.columns = columns or ()

    def __len__(self) -> int:
        return self.total

    def row(self, place: int) -> dict[str, Any]:
        group = bisect_right(self.starts, place) - 1
        return self._rows_of(group)(place - self.starts[group])

    def rows(self) -> Iterator[dict[str, Any] | ValueError]:
        for group, start in enumerate(self.starts):
            end = self.starts[group + 1] if group + 1 < len(self.starts) else self.total
            read = self._rows_of(group)
            for inside in range(end - start):
                yield read(inside)

    def where(self, place: int) -> str:
        group = bisect_right(self.starts, place) - 1
        file = self.groups[group][0]
        first = next(start for (number, _), start in zip(self.groups, self.starts, strict=True) if number == file)
        return f"{Path(self.files[file]).name}, row {place - first + 1}"

    def _rows_of(self, group: int) -> Any:
        number, inside_file = self.groups[group]
        file = self.files[number]
        texts = _texts(file, inside_file, tuple(name for name in self.columns if name not in self.pictures))
        shown = {name: _pictures(file, inside_file, name) for name in self.pictures}

        def read(inside: int) -> dict[str, Any]:
            row = {name: texts[name][inside].as_py() for name in texts.column_names}
            place = self.where(self.starts[group] + inside)
            for name in self.pictures:
                row[name] = shown[name](inside, ParquetImage(file, inside_file, inside, name, place))
            return row

        return read


@lru_cache(maxsize=64)
def _shape(file: str) -> tuple[Any, list[int]]:
    import pyarrow
    from pyarrow import parquet

    try:
        opened = parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{file} is no Parquet file that can be read ({error}); it is incomplete, fetch it again"
        ) from error
    return opened.schema_arrow, [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]


@lru_cache(maxsize=2)
def _texts(file: str, group: int, columns: tuple[str, ...]) -> Any:
    from pyarrow import parquet

    return parquet.ParquetFile(file).read_row_group(group, columns=list(columns))


@lru_cache(maxsize=8)
def _pictures(file: str, group: int, column: str) -> Any:
    """(row, handle) -> the handle, a list of as many as the row's list holds, a path where only that is stored, or None.

    The bytes are not read for that: of pictures as `datasets` stores them the paths, beside the bytes, tell how many there are.
    """
    from pyarrow import parquet

    opened = parquet.ParquetFile(file)
    leaves = {opened.metadata.schema.column(place).path: place for place in range(opened.metadata.num_columns)}
    path = next((leaf for leaf in leaves if leaf.startswith(f"{column}.") and leaf.endswith(".path")), None)
    values = opened.read_row_group(group, columns=[path or column])[column]
    embedded = True
    if path is not None:
        known = opened.metadata.row_group(group).column(leaves[path.removesuffix("path") + "bytes"])
        statistics = known.statistics
        embedded = statistics is None or not statistics.has_null_count or statistics.null_count < known.num_values

    def told(item: Any, handle: ParquetImage) -> Any:
        if item is None:
            return None
        if isinstance(item, list):
            return [told(one, handle) for one in item]
        return handle if embedded or not isinstance(item, dict) else item.get("path")

    return lambda row, handle: told(values[row].as_py(), handle)


def _is_picture(kind: Any) -> bool:
    """Whether a column holds pictures as `datasets` stores them, or lists of them."""
    import pyarrow

    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        return _is_picture(kind.value_type)
    if pyarrow.types.is_struct(kind):
        return {kind.field(number).name for number in range(kind.num_fields)} == {"bytes", "path"}
    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))
