"""Keeps problems apart: each is told once, and a value that only repeats another key's (`${…}`) is blamed on that key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Problems = dict[str, str]  # dotted key -> sentence
Found = Iterator[tuple[str, str]]  # of choices that do not go together: the key to blame, the reason with the way out


class Blame:
    """Collects problems by key."""

    def __init__(self) -> None:
        self.problems: Problems = {}
        self.taken_over: list[tuple[str, str, str]] = []  # (key it came from, key, sentence)
        self.inside: Any = None  # the reference (`${aug}`) that the component being looked at came from

    def result(self) -> Problems:
        """All problems, each blamed once."""
        blamed = {*self.problems, *(key for _, key, _ in self.taken_over)}
        for source, key, sentence in self.taken_over:
            if not any(known == source or known.startswith(f"{source}.") for known in blamed):
                self.problems.setdefault(key, sentence)
        twice = re.compile(r"^stages\.[^.]+\.")
        keys = set(self.problems)
        return {
            key: sentence
            for key, sentence in self.problems.items()
            if not (twice.match(key) and twice.sub("", key) in keys)
        }

    def say(self, key: str, sentence: str, raw: object = None) -> None:
        """Note a problem, unless the value merely repeats that of another key."""
        raw = raw if isinstance(raw, str) else self.inside
        source = re.fullmatch(r"\$\{([\w.]+)\}", raw) if isinstance(raw, str) else None
        if source and source[1] != key:
            self.taken_over.append((source[1], key, sentence))
        else:
            self.problems.setdefault(key, sentence)
