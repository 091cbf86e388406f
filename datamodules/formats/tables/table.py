"""What a table is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol


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

    def where(self, place: int) -> str:
        """A row's place in words: `part-0.parquet, row 12`."""
        ...


def holds_bytes(value: Any) -> bool:
    """Whether a value is a picture as `datasets` stores it: bytes, or a mapping with bytes."""
    if isinstance(value, dict):
        return isinstance(value.get("bytes"), bytes) and bool(value["bytes"])
    return isinstance(value, bytes) and bool(value)
