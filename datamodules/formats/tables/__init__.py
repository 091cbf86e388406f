"""Rows of a data set by number, whatever it is stored in: Parquet, Arrow, JSON lines, tar shards, or a set of the hub.

A table knows how many rows it has and gives any of them without reading the others, so a set may be larger than memory. Columns
with pictures give a handle to the picture, never its bytes.
"""

from datamodules.formats.tables.open_table import open_table
from datamodules.formats.tables.table import Table

__all__ = ["Table", "open_table"]
