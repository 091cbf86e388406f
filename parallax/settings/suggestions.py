"""Closest valid names for a mistyped one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

ALSO_CALLED = {  # what people from elsewhere type: our word
    "learning_rate": "lr",
    "rank": "r",
    "epochs": "max_epochs",
    "num_epochs": "max_epochs",
    "accumulate_grad_batches": "micro_batch_size",
    "max_length": "max_new_tokens",
    "max_tokens": "max_new_tokens",
}


def closest(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Up to `most` of the known names that look like `name`, best first; those much less alike than the best are left out."""
    scored = sorted(((_alike(name, one), one) for one in set(known)), key=lambda pair: (-pair[0], pair[1]))
    good = [(score, one) for score, one in scored if score >= 0.6]
    return [one for score, one in good if score >= good[0][0] - 0.15][:most]


def _alike(name: str, known: str) -> float:
    """As `likeness`, whatever the case; a name that goes on where the typed one ends is a good guess too."""
    name, known = name.lower(), known.lower()
    begun = 0.6 if len(name) > 2 and known.startswith(name) else 0.0
    return max(likeness(name, known), begun)


def likeness(first: str, second: str) -> float:
    """0 (nothing in common) to 1 (equal)."""
    return SequenceMatcher(None, first, second).ratio()


def closest_keys(key: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Up to `most` dotted keys that `key` may have meant, best first: the same last word elsewhere counts much."""
    above, _, last = key.rpartition(".")
    last = ALSO_CALLED.get(last, last)
    key = f"{above}.{last}" if above else last

    def score(candidate: str) -> float:
        return 0.5 * likeness(key, candidate) + 0.5 * likeness(last, candidate.rpartition(".")[2])

    scored = sorted(((score(candidate), candidate) for candidate in set(known)), key=lambda pair: (-pair[0], pair[1]))
    good = [(value, candidate) for value, candidate in scored if value >= 0.6]
    return [candidate for value, candidate in good if value >= good[0][0] - 0.15][:most]


def or_list(names: Iterable[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    named = list(names)
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} or {named[-1]}"
