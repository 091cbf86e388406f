"""Large files read a portion at a time, so that a run starts before it has seen every row.

Portions are drawn over the whole file by the seed and hold each row once. The first is small, since the first optimiser step
waits for all of its rows, and each next one is twice as large until they have their full size. Rows whose pictures lie in the
row groups of a Parquet file stay together by group, since a picture costs the reading of its group.
"""

from __future__ import annotations

import numpy as np

from datamodules.formats.tables import Table
from datamodules.formats.tables.dataset_table import DatasetTable
from datamodules.formats.tables.lines_table import LinesTable
from datamodules.formats.tables.parquet_table import ParquetTable
from parallax.records import seed_for

LARGE = 100_000  # rows; files of so many or fewer are read whole


class Portions:
    """The portions of a table whose rows can be found by number.

    Args:
        table: see `comes_in_portions`.
        size: rows of a portion, about.
        seed: of the draw.
        first: rows of the first portion.
        most: how many rows are drawn over all portions; None for all.

    Attributes:
        rows: of the table.
        sizes: rows of each portion.
    """

    def __init__(self, table: Table, size: int, seed: int, *, first: int, most: int | None = None) -> None:
        self.rows, self.seed = len(table), seed
        self.sizes = _sizes(min(self.rows, most or self.rows), size, first)
        self._starts = table.starts if isinstance(table, ParquetTable) and table.pictures else None

    @property
    def count(self) -> int:
        return len(self.sizes)

    def places(self, number: int) -> list[int]:
        """The rows of a portion, 0-based, in file order."""
        draw, begin = np.random.default_rng(seed_for(self.seed, "portions", "rows")), sum(self.sizes[:number])
        if self._starts is None:
            order = draw.permutation(self.rows)
        else:
            ends = [*self._starts[1:], self.rows]
            groups = [np.arange(start, end) for start, end in zip(self._starts, ends, strict=True)]
            order = np.concatenate([groups[place] for place in draw.permutation(len(groups))])
        return [int(place) for place in np.sort(order[begin : begin + self.sizes[number]])]


def comes_in_portions(table: Table) -> bool:
    """Whether a table is large and its rows can be found by number without reading all of it."""
    return isinstance(table, LinesTable | ParquetTable | DatasetTable) and len(table) > LARGE


def _sizes(rows: int, size: int, first: int) -> list[int]:
    """Doubling from `first` as long as that is below `size`; what is left in equal parts of at most `size`."""
    sizes: list[int] = []
    while first < size and sum(sizes) + first < rows:
        sizes.append(first)
        first *= 2
    left = rows - sum(sizes)
    return [*sizes, *map(len, np.array_split(np.arange(left), -(-left // size)))]
