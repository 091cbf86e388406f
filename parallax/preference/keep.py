"""Which of a sample's judged answers are learned: the filter of rejection sampling (ViReP, arXiv 2404.04627)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parallax.settings.part import Part
from parallax.settings.ranges import Count


@dataclass(frozen=True)
class Keep(Part):
    """The best answers of a sample.

    Args:
        at_least: least score of an answer that is kept; None keeps the best whatever its score.
        per_sample: most answers of one sample. Equal texts count once.
    """

    at_least: float | None = None
    per_sample: Count = 1

    def places(self, texts: Sequence[str], scores: Sequence[float]) -> list[int]:
        """Places of the answers that are kept, the best first. Empty answers and those without a score never are."""
        able = [
            i
            for i, score in enumerate(scores)
            if score >= (float("-inf") if self.at_least is None else self.at_least) and texts[i].strip()
        ]
        distinct: dict[str, int] = {}
        for place in sorted(able, key=lambda i: (-scores[i], i)):
            distinct.setdefault(" ".join(texts[place].split()), place)
        return list(distinct.values())[: self.per_sample]
