"""Reference log-probabilities as a side table: (reference fingerprint, pair id) → 1 + K floats, or one for each look.

A pair can be scored by several references (the initial policy, the previous round's), and one reference serves every run
that trains on the pair. One folder per reference, append-only Parquet shards inside, several writers at once allowed.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from parallax.records.atomic import is_temporary
from parallax.records.kept_file import why_not_believed, write_shard
from parallax.records.shard_folder import parquet_bytes

log = logging.getLogger(__name__)


class ReferenceTable:
    """Summed log-probabilities (float32, natural log) of each response of a pair, chosen first.

    Args:
        folder: one sub-folder per reference fingerprint is made below it.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._tables: dict[str, dict[str, tuple[float, ...]]] = {}
        self._known: set[Path] = set()

    def get(self, pair_ids: Iterable[str], reference: str) -> dict[str, list[float]]:
        """Those of `pair_ids` that `reference` has scored; others are absent from the answer."""
        self._refresh(reference)
        table = self._tables.get(reference, {})
        return {pair_id: list(table[pair_id]) for pair_id in pair_ids if pair_id in table}

    def add(self, rows: Mapping[str, Sequence[float]], reference: str) -> Path | None:
        """Write one shard, whole or absent. `rows`: pair id (or the name of a look) -> finite floats."""
        import pyarrow as pa

        if not rows:
            return None
        for pair_id, values in rows.items():
            if not values or not all(math.isfinite(value) for value in values):
                raise ValueError(
                    f"reference log-probs of pair {pair_id} are {list(values)}; they must be finite numbers, one at least"
                )
        schema = pa.schema([("pair_id", pa.string()), ("log_probs", pa.list_(pa.float32()))])
        columns = [list(rows), [list(values) for values in rows.values()]]
        table = pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
        return write_shard(self._home(reference), parquet_bytes(table))

    def _home(self, reference: str) -> Path:
        if not re.fullmatch(r"[0-9A-Za-z_-]{1,128}", reference):
            raise ValueError(f"{reference!r} is no reference fingerprint; letters, digits, '-' and '_' are allowed")
        return self.folder / reference

    def _refresh(self, reference: str) -> None:
        import pyarrow
        from pyarrow import parquet

        home = self._home(reference)
        if not home.is_dir():
            return
        table = self._tables.setdefault(reference, {})
        for path in sorted(home.glob("*.parquet")):
            if path in self._known or is_temporary(path):
                continue
            self._known.add(path)
            try:
                if why := why_not_believed(path):
                    log.warning("ignored %s: %s", path, why)
                    continue
                for row in parquet.read_table(path, columns=["pair_id", "log_probs"]).to_pylist():
                    table.setdefault(row["pair_id"], tuple(row["log_probs"]))
            except (pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
                log.warning("ignored %s: it cannot be read as reference log-probs (%s)", path, error)
