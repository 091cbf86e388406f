"""How a choice that does not go with another is told."""

from __future__ import annotations

from collections.abc import Iterator

Found = Iterator[tuple[str, str]]  # (key, sentence)


def refused(key: str, sentence: str) -> tuple[str, str]:
    """A choice that does not go with another: the key to blame, and the reason with the way out."""
    return key, sentence
