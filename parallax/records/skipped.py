"""What was put aside and why: a line of JSON per item in `skipped.jsonl`, and an end when it becomes too much."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

FEW = 10  # so many may always be put aside: of a handful of files a share says little


class TooManySkipped(RuntimeError):
    """More was put aside than the set share allows."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """One item that cannot be used. `item` names it (a sample id, or file and row), `why` is a sentence."""

    item: str
    source: str
    reason: str  # short, counted: "bad_image", "bad_row", "long_prompt", …
    why: str


def most_skipped(max_share: float, total: int) -> float:
    """How many of `total` items may be put aside."""
    return max(max_share * total, FEW) if max_share > 0 else 0


def skipped_counts(path: Path) -> Counter[str]:
    """How many items a `skipped.jsonl` names for each reason. One that several stages met stands there once."""
    counts: Counter[str] = Counter()
    if path.is_file():
        for line in path.read_text("utf-8").splitlines():
            try:
                counts[str(json.loads(line)["reason"])] += 1
            except (ValueError, KeyError, TypeError):
                continue  # a line cut off by a crash
    return counts


class SkippedLog:
    """Collects what is put aside, each item once.

    Args:
        path: the JSONL file; None keeps it in memory only. Lines that are there already stay and are not repeated.
        max_share: largest share of `total` that may be put aside, 0 to 1. Up to ten items are always allowed unless it is 0.
        total: number of items looked at in all; may be set later.
    """

    def __init__(self, path: Path | str | None, max_share: float = 0.05, total: int = 0) -> None:
        if not 0 <= max_share <= 1:
            raise ValueError(f"the share that may be put aside is {max_share}; it must lie between 0 and 1")
        self.path = Path(path) if path is not None else None
        self.max_share, self.total = max_share, total
        self.items: dict[tuple[str, str], SetAside] = {}
        self._written = self._lines_already_there()

    def add(self, item: SetAside) -> None:
        """Put one item aside. Raises `TooManySkipped` with the reasons and their counts when it is one too many."""
        name = (item.source, item.item)
        if name in self.items:
            return
        self.items[name] = item
        if self.path is not None and name not in self._written:
            self._append({"item": item.item, "source": item.source, "reason": item.reason, "why": item.why})
        if len(self.items) > most_skipped(self.max_share, self.total):
            counts = ", ".join(f"{n} {reason}" for reason, n in sorted(self.counts().items()))
            where = f" Every item and its reason is in {self.path}." if self.path else ""
            raise TooManySkipped(
                f"{len(self.items)} of {self.total} items had to be put aside ({counts}), more than the allowed share of "
                f"{self.max_share:g}; the last: {item.why}{where} Repair the data or raise pairs.max_skipped_share."
            )

    def counts(self) -> dict[str, int]:
        """How many were put aside for each reason."""
        return dict(Counter(item.reason for item in self.items.values()))

    def __len__(self) -> int:
        return len(self.items)

    def _append(self, line: dict[str, str]) -> None:
        assert self.path is not None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        data = (json.dumps(line, ensure_ascii=False) + "\n").encode()
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, data)  # one write per line: lines of several processes do not mix
        finally:
            os.close(handle)

    def _lines_already_there(self) -> set[tuple[str, str]]:
        there: set[tuple[str, str]] = set()
        if self.path is not None and self.path.is_file():
            for line in self.path.read_text().splitlines():
                try:
                    row = json.loads(line)
                    there.add((row["source"], row["item"]))
                except (ValueError, KeyError, TypeError):
                    continue  # a line cut off by a crash
        return there
