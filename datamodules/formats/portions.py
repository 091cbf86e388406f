"""Large files read a portion at a time, so that a run starts before it has seen every row.

Portions are drawn over the whole file by the seed, are of about the same size, and hold each row once. Rows whose pictures lie in
the row groups of a Parquet file stay together by group, since a picture costs the reading of its group.
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
    """The portions of a table.

    Args:
        table: any; one whose rows cannot be found by number without reading all of it is a single portion.
        size: rows of a portion, about; None for a single one.
        seed: of the draw.
    """

    def __init__(self, table: Table, size: int | None, seed: int) -> None:
        by_number = isinstance(table, LinesTable | ParquetTable | DatasetTable)
        rows = len(table) if size is not None and by_number else 0
        self.count = -(-rows // size) if size is not None and rows > LARGE else 1
        self.rows, self.seed = rows, seed
        self._starts = _starts(table, size or 0) if self.count > 1 else None
        if self._starts is not None:
            self.count = min(self.count, len(self._starts))

    def places(self, number: int) -> list[int]:
        """The rows of a portion, 0-based, in file order."""
        starts = self._starts
        units = self.rows if starts is None else len(starts)
        order = np.random.default_rng(seed_for(self.seed, "portions", "rows")).permutation(units)
        drawn = np.sort(np.array_split(order, self.count)[number])
        if starts is None:
            return [int(place) for place in drawn]
        ends = [*starts[1:], self.rows]
        return [place for unit in drawn for place in range(starts[unit], ends[unit])]


def _starts(table: Table, size: int) -> list[int] | None:
    """The first row of each group that stays together; None where rows are drawn one by one."""
    if not isinstance(table, ParquetTable) or not table.pictures:
        return None
    largest = max(end - start for start, end in zip(table.starts, [*table.starts[1:], table.total], strict=True))
    return table.starts if largest <= size else None
