"""Images that lie as bytes inside a Parquet file, as `datasets` stores them. Only their place is kept in memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from datamodules.formats.slice_image import InsideImage
from parallax.records.sample import BadImage


@dataclass(frozen=True, slots=True)
class ParquetImage(InsideImage):
    """The image in `column` of one row, or the one at `index` of the list there.

    Args:
        file: path of the Parquet file.
        group: row group, 0-based.
        row: row within the group, 0-based.
        column: `image` or `images`.
        name: for messages.
        index: of the image in a list, 0-based.
    """

    file: str
    group: int
    row: int
    column: str
    name: str
    index: int = 0

    def data(self) -> bytes:
        import pyarrow

        try:
            value = _group(self.file, self.group, self.column)[self.row].as_py()
        except (pyarrow.ArrowException, OSError) as error:
            raise BadImage(f"image {self.name!r} lies in a damaged part of {self.file} ({error})") from error
        if isinstance(value, list):
            value = value[self.index] if self.index < len(value) else None
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes) or not data:
            raise BadImage(f"image {self.name!r} has no bytes in column {self.column} of {self.file}")
        return data


def opened(file: str) -> Any:
    """The Parquet file, its footer read once in this process. Raises ValueError for one that cannot be read."""
    try:
        status = os.stat(file)
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error})") from error
    return _opened(file, os.getpid(), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _opened(file: str, process: int, modified_ns: int, size: int) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        found = parquet.ParquetFile(file)
        rows = [found.metadata.row_group(number).num_rows for number in range(found.num_row_groups)]
        if min(rows, default=0) < 0 or not all(isinstance(name, str) for name in found.schema_arrow.names):
            raise ValueError("its footer is damaged")  # names that are no text raise by themselves
        return found
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ValueError(
            f"{file} is no Parquet file that can be read ({error}); it is incomplete, fetch it again"
        ) from error


@lru_cache(maxsize=2)
def _group(file: str, group: int, column: str) -> Any:
    return opened(file).read_row_group(group, columns=[column])[column]
