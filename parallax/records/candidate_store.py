"""The candidate store: every answer a policy ever gave, found again by all that determined it.

A folder of Parquet shards that are only ever added to. Each writer makes shards of its own under unique names, so any number
of processes and runs may share one folder without locks: at worst two of them do the same work and store it twice.
Readable with `datasets.load_dataset("parquet", data_files=".../*.parquet")` and `pandas.read_parquet`.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from parallax.records.atomic import atomic_file, is_temporary
from parallax.records.candidate import Candidate, Decoding, GenerationSpec, ViewSpec
from parallax.records.key_index import KeyIndex

log = logging.getLogger(__name__)

ROWS = 1 << 32  # more than a shard ever has: shard number * ROWS + row is a place


class CandidateStore:
    """Candidates by key (`GenerationSpec.key()`).

    Args:
        folder: where the shards lie; made when the first candidate is added.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._shards: list[Path] = []
        self._known: set[str] = set()  # names of files already looked at, good or bad
        self._rows = KeyIndex()  # key -> shard number and row, see ROWS
        self.refresh()

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
                names = set(parquet.read_schema(path).names)
                if missing := {field.name for field in _schema()} - names:
                    log.warning("ignored %s: no candidate shard, it has no column %s", path, ", ".join(sorted(missing)))
                    continue
                keys = parquet.read_table(path, columns=["key"])["key"].to_pylist()
                self._index(path, keys)
            except (pyarrow.ArrowException, OSError, ValueError, TypeError) as error:
                log.warning("ignored %s: it cannot be read as a candidate shard (%s)", path, error)

    def get_many(self, keys: Iterable[str]) -> dict[str, Candidate]:
        """The candidates stored under `keys`; keys that are not stored are absent from the answer."""
        import pyarrow
        from pyarrow import parquet

        wanted: dict[int, list[int]] = defaultdict(list)
        for key in dict.fromkeys(keys):
            if (place := self._rows.get(key)) is not None:
                wanted[place // ROWS].append(place % ROWS)
        found: dict[str, Candidate] = {}
        for shard, rows in wanted.items():
            path = self._shards[shard]
            try:
                table = parquet.read_table(path, columns=[field.name for field in _schema()]).take(sorted(rows))
                candidates = [_candidate(row) for row in table.to_pylist()]
            except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
                log.warning("ignored %s: it could be indexed but not read (%s)", path, error)
                continue
            for candidate in candidates:
                if candidate.spec.key() != candidate.key:
                    log.warning("ignored a candidate in %s: its key does not fit what it says made it", path)
                    continue
                found[candidate.key] = candidate
        return found

    def add(self, candidates: Sequence[Candidate]) -> Path | None:
        """Write one shard, whole or absent, and return its path (None for no candidates)."""
        import pyarrow
        from pyarrow import parquet

        if not candidates:
            return None
        table = pyarrow.Table.from_pylist([_row(candidate) for candidate in candidates], schema=_schema())
        path = self.folder / f"{time.time_ns():020d}-{os.getpid()}-{uuid.uuid4().hex[:8]}.parquet"
        with atomic_file(path) as temporary:
            parquet.write_table(table, temporary, compression="zstd")
        self._known.add(path.name)
        self._index(path, [candidate.key for candidate in candidates])
        return path

    def _index(self, path: Path, keys: Sequence[str]) -> None:
        first = len(self._shards) * ROWS
        self._shards.append(path)
        self._rows.add((key, first + row) for row, key in enumerate(keys))


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("sample_id", pa.string(), nullable=False),
            pa.field("role", pa.string(), nullable=False),
            pa.field("index", pa.int32(), nullable=False),
            pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("finished", pa.bool_(), nullable=False),
            pa.field("spec", pa.string(), nullable=False),  # JSON: everything that determined the tokens
            pa.field("scores", pa.string(), nullable=False),  # JSON
        ]
    )


def _row(candidate: Candidate) -> dict[str, Any]:
    return {
        "key": candidate.key,
        "sample_id": candidate.sample_id,
        "role": candidate.role,
        "index": candidate.index,
        "token_ids": list(candidate.token_ids),
        "text": candidate.text,
        "finished": candidate.finished,
        "spec": json.dumps(asdict(candidate.spec), sort_keys=True),
        "scores": json.dumps(dict(candidate.scores), sort_keys=True),
    }


def _candidate(row: dict[str, Any]) -> Candidate:
    spec = json.loads(row["spec"])
    view, decoding = ViewSpec(**spec.pop("view")), Decoding(**spec.pop("decoding"))
    return Candidate(
        key=row["key"],
        sample_id=row["sample_id"],
        role=row["role"],
        index=row["index"],
        token_ids=tuple(row["token_ids"]),
        text=row["text"],
        finished=row["finished"],
        spec=GenerationSpec(**spec, view=view, decoding=decoding),
        scores=json.loads(row["scores"]),
    )
