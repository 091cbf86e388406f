"""Where which key is, for millions of keys: 16 bytes of key and 8 of place each, where a dict takes about 250."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

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
