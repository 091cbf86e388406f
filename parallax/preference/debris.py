"""SENA's filter (arXiv 2412.15650, released code): pairs that teach nothing but form."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from parallax.preference.selector import BestAgainstRest
from parallax.records import Dropped, PreferencePair
from parallax.settings.ranges import Count


class NoDebris(BestAgainstRest):
    """The best against the rest, but for answers that repeat themselves, are mostly symbols or only yes or no, and pairs whose
    rejected answer is a part of the chosen one.

    Args:
        most_repeats: how often one word may stand in an answer.
        rest: see `BestAgainstRest`.
    """

    def __init__(self, num_negatives: int = 1, *, most_repeats: Count, **rest: Any) -> None:
        super().__init__(num_negatives, **rest)
        self.most_repeats = most_repeats

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "most_repeats": self.most_repeats}

    def _decide(self, pair: PreferencePair) -> PreferencePair | Dropped:
        kept = super()._decide(pair)
        if isinstance(kept, Dropped):
            return kept
        reason = next((why for one in kept.responses if (why := debris(one.text, self.most_repeats))), None)
        if reason is None and any(one.text.lower().strip() in kept.chosen.text.lower() for one in kept.rejected):
            reason = "contains_rejected"
        return kept if reason is None else Dropped(pair.sample_id, pair.source, reason)


def debris(text: str, most_repeats: int = 30) -> str | None:
    """Why a text is debris, in a word, or None. Spaces count as symbols, as in the released code.

    >>> debris("A dog. A cat. A dog."), debris("Yes"), debris("-- ; -- ok"), debris("A dog.")
    ('repeats', 'bare_yes_no', 'symbols', None)
    """
    sentences = [sentence.strip() for sentence in re.split(r"[.!?]", text) if sentence.strip()]
    words = Counter(re.findall(r"\w+", text))
    if len(sentences) != len(set(sentences)) or max(words.values(), default=0) > most_repeats:
        return "repeats"
    if text.strip() in ("Yes", "No"):
        return "bare_yes_no"
    return "symbols" if len(re.findall(r"[A-Za-z0-9]", text)) * 2 < len(text) else None
