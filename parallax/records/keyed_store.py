"""Results by content address: plain data under the fingerprint of all that determined it, in a folder of Parquet shards.

For results that are no candidates: search trees, similarities of pictures and sentences.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parallax.records.shard_folder import ShardFolder


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
