"""A folder of Parquet shards that are only ever added to, and where each key lies in them.

A shard is whole or absent, and has a name of its own, so any number of processes and runs may share one folder without locks: at
worst two of them do the same work and store it twice.
"""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from parallax.records.atomic import is_temporary
from parallax.records.kept_file import why_not_believed, write_shard

if TYPE_CHECKING:
    import numpy as np
    import pyarrow

FRESH = 1 << 16  # newest keys, which are kept in a dict until there are so many


class KeyIndex:
    """Maps keys of 32 hex digits to whole numbers from 0 to 2**63 - 1. The first place of a key stays."""

    def __init__(self) -> None:
        self._fresh: dict[bytes, int] = {}
        self._high: np.ndarray | None = None  # (N,) uint64, sorted: the first eight bytes of each key
        self._low: np.ndarray | None = None  # (N,) uint64: the last eight
        self._places: np.ndarray | None = None  # (N,) int64

    def __len__(self) -> int:
        return len(self._fresh) + (len(self._high) if self._high is not None else 0)

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def get(self, key: str) -> int | None:
        """The place of a key, or None."""
        raw = bytes.fromhex(key)
        if raw in self._fresh:
            return self._fresh[raw]
        return self._settled(raw)

    def add(self, items: Iterable[tuple[str, int]]) -> int:
        """Add (key, place); returns how many keys were new."""
        new = 0
        for key, place in items:
            raw = bytes.fromhex(key)
            if raw not in self._fresh and self._settled(raw) is None:
                self._fresh[raw] = place
                new += 1
                if len(self._fresh) >= FRESH:
                    self._settle()
        return new

    def _settled(self, raw: bytes) -> int | None:
        if self._high is None or self._low is None or self._places is None:
            return None
        import numpy as np

        high, low = (np.uint64(int.from_bytes(half, "big")) for half in (raw[:8], raw[8:]))
        place = int(np.searchsorted(self._high, high))
        while place < len(self._high) and self._high[place] == high:
            if self._low[place] == low:
                return int(self._places[place])
            place += 1
        return None

    def _settle(self) -> None:
        import numpy as np

        halves = np.frombuffer(b"".join(self._fresh), dtype=">u8").reshape(-1, 2).astype(np.uint64)
        high, low = halves[:, 0], halves[:, 1]
        places = np.fromiter(self._fresh.values(), dtype=np.int64, count=len(high))
        if self._high is not None and self._low is not None and self._places is not None:
            high, low = np.concatenate([self._high, high]), np.concatenate([self._low, low])
            places = np.concatenate([self._places, places])
        order = np.argsort(high, kind="stable")
        self._high, self._low, self._places = high[order], low[order], places[order]
        self._fresh = {}


log = logging.getLogger(__name__)

Value = TypeVar("Value")

ROWS = 1 << 32  # more than a shard ever has: shard number * ROWS + row is a place


class ShardFolder(ABC, Generic[Value]):
    """Values by key. A subclass says what a row holds.

    Args:
        folder: where the shards lie; made when something is first added.
    """

    kind: ClassVar[str]  # what a file of ours is called in messages
    columns: ClassVar[tuple[str, ...]]  # that every shard has; `key` among them

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder).expanduser()
        self._shards: list[Path] = []
        self._known: set[str] = set()  # names of files already looked at, good or bad
        self._rows = KeyIndex()  # key -> shard number and row, see ROWS
        self.refresh()

    @abstractmethod
    def _values(self, rows: list[dict[str, Any]], path: Path) -> Mapping[str, Value]:
        """Key → value of some rows of the shard at `path`. Rows that cannot be trusted are left out, with a warning."""

    def __len__(self) -> int:
        """Distinct keys known since the last refresh."""
        return len(self._rows)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def refresh(self) -> None:
        """Take in shards that other processes have written since. Unreadable or foreign files are ignored with a warning."""
        import pyarrow
        from pyarrow import parquet

        if not self.folder.is_dir():
            return
        for path in sorted(self.folder.glob("*.parquet")):
            if path.name in self._known or is_temporary(path):
                continue
            self._known.add(path.name)
            try:
                if why := why_not_believed(path):
                    log.warning("ignored %s: %s", path, why)
                    continue
                if missing := set(self.columns) - set(parquet.read_schema(path).names):
                    log.warning("ignored %s: no %s, it has no column %s", path, self.kind, ", ".join(sorted(missing)))
                    continue
                self._index(path, parquet.read_table(path, columns=["key"])["key"].to_pylist())
            except (pyarrow.ArrowException, OSError, ValueError, TypeError) as error:
                log.warning("ignored %s: it cannot be read as a %s (%s)", path, self.kind, error)

    def get_many(self, keys: Iterable[str]) -> dict[str, Value]:
        """What is stored under `keys`; keys that are not stored are absent from the answer."""
        import pyarrow
        from pyarrow import parquet

        wanted: dict[int, list[int]] = defaultdict(list)
        for key in dict.fromkeys(keys):
            if (place := self._rows.get(key)) is not None:
                wanted[place // ROWS].append(place % ROWS)
        found: dict[str, Value] = {}
        for shard, rows in wanted.items():
            path = self._shards[shard]
            try:
                table = parquet.read_table(path, columns=list(self.columns)).take(sorted(rows))
                found |= self._values(table.to_pylist(), path)
            except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
                log.warning("ignored %s: it could be indexed but not read (%s)", path, error)
        return found

    def _write(self, table: pyarrow.Table, keys: Sequence[str]) -> Path:
        """Write one shard, whole or absent, and return its path. `keys` are those of the rows, in order."""
        path = write_shard(self.folder, parquet_bytes(table))
        self._known.add(path.name)
        self._index(path, keys)
        return path

    def _index(self, path: Path, keys: Sequence[str]) -> None:
        first = len(self._shards) * ROWS
        self._shards.append(path)
        self._rows.add((key, first + row) for row, key in enumerate(keys))


def parquet_bytes(table: pyarrow.Table) -> bytes:
    """A pyarrow table as a Parquet file."""
    from pyarrow import BufferOutputStream, parquet

    sink = BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


class KeyedStore(ShardFolder[Any]):
    """Plain data by key (`fingerprint(…)`)."""

    kind = "shard of results"
    columns = ("key", "value")  # value: JSON

    def add(self, results: Mapping[str, Any]) -> Path | None:
        """Write one shard, whole or absent, and return its path (None for no results)."""
        import pyarrow

        if not results:
            return None
        columns = {"key": list(results), "value": [json.dumps(value, sort_keys=True) for value in results.values()]}
        return self._write(pyarrow.table(columns), columns["key"])

    def _values(self, rows: list[dict[str, Any]], path: Path) -> dict[str, Any]:
        return {row["key"]: json.loads(row["value"]) for row in rows}
