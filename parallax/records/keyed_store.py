"""Results by content address: plain data under the fingerprint of all that determined it, in a folder of Parquet shards.

For results that are no candidates: search trees, similarities of pictures and sentences. Shards are only ever added, each whole
or absent and under a name of its own, so any number of processes and runs may share one folder without locks.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from parallax.records.atomic import atomic_file, is_temporary
from parallax.records.key_index import KeyIndex

log = logging.getLogger(__name__)

ROWS = 1 << 32  # more than a shard ever has: shard number * ROWS + row is a place


class KeyedStore:
    """Plain data by key (`fingerprint(…)`).

    Args:
        folder: where the shards lie; made when something is first added.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder).expanduser()
        self._shards: list[Path] = []
        self._known: set[str] = set()
        self._rows = KeyIndex()  # key -> shard number and row, see ROWS
        self.refresh()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def refresh(self) -> None:
        """Take in shards that other processes have written since. Unreadable files are ignored with a warning."""
        import pyarrow
        from pyarrow import parquet

        if not self.folder.is_dir():
            return
        for path in sorted(self.folder.glob("*.parquet")):
            if path.name in self._known or is_temporary(path):
                continue
            self._known.add(path.name)
            try:
                self._index(path, parquet.read_table(path, columns=["key"])["key"].to_pylist())
            except (pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
                log.warning("ignored %s: it cannot be read as a shard of results (%s)", path, error)

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """What is stored under `keys`; keys that are not stored are absent from the answer."""
        import pyarrow
        from pyarrow import parquet

        wanted: dict[int, list[int]] = defaultdict(list)
        for key in dict.fromkeys(keys):
            if (place := self._rows.get(key)) is not None:
                wanted[place // ROWS].append(place % ROWS)
        found: dict[str, Any] = {}
        for shard, rows in wanted.items():
            path = self._shards[shard]
            try:
                table = parquet.read_table(path, columns=["key", "value"]).take(sorted(rows)).to_pylist()
                found |= {row["key"]: json.loads(row["value"]) for row in table}
            except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
                log.warning("ignored %s: it could be indexed but not read (%s)", path, error)
        return found

    def add(self, results: Mapping[str, Any]) -> Path | None:
        """Write one shard, whole or absent, and return its path (None for no results)."""
        import pyarrow
        from pyarrow import parquet

        if not results:
            return None
        columns = {"key": list(results), "value": [json.dumps(value, sort_keys=True) for value in results.values()]}
        path = self.folder / f"{time.time_ns():020d}-{os.getpid()}-{uuid.uuid4().hex[:8]}.parquet"
        with atomic_file(path) as temporary:
            parquet.write_table(pyarrow.table(columns), temporary, compression="zstd")
        self._known.add(path.name)
        self._index(path, columns["key"])
        return path

    def _index(self, path: Path, keys: list[str]) -> None:
        first = len(self._shards) * ROWS
        self._shards.append(path)
        self._rows.add((key, first + row) for row, key in enumerate(keys))
