"""The candidate store: every answer a policy ever gave, found again by all that determined it.

A folder of Parquet shards, readable with `datasets.load_dataset("parquet", data_files=".../*.parquet")` and
`pandas.read_parquet`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parallax.records.candidate import Candidate, Decoding, GenerationSpec, ViewSpec
from parallax.records.shard_folder import ShardFolder

log = logging.getLogger(__name__)


class CandidateStore(ShardFolder[Candidate]):
    """Candidates by key (`GenerationSpec.key()`)."""

    kind = "candidate shard"
    columns = ("key", "sample_id", "role", "index", "token_ids", "text", "finished", "spec", "scores")

    def add(self, candidates: Sequence[Candidate]) -> Path | None:
        """Write one shard, whole or absent, and return its path (None for no candidates)."""
        import pyarrow

        if not candidates:
            return None
        table = pyarrow.Table.from_pylist([_row(candidate) for candidate in candidates], schema=_schema())
        return self._write(table, [candidate.key for candidate in candidates])

    def _values(self, rows: list[dict[str, Any]], path: Path) -> dict[str, Candidate]:
        found = {}
        for candidate in map(_candidate, rows):
            if candidate.spec.key() != candidate.key:
                log.warning("ignored a candidate in %s: its key does not fit what it says made it", path)
            else:
                found[candidate.key] = candidate
        return found


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
        "spec": json.dumps(candidate.spec.as_data(), sort_keys=True),
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
