"""Several pairs of one sample: every two answers whose scores differ enough, up to a number drawn at random.

RLAIF-V (arXiv 2405.17220) draws two pairs per question, MPO (arXiv 2411.10442) up to fifteen of right and wrong answers. Pairs
are drawn by the sample's own seed here, and two answers with the same words count once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

from parallax.preference.filters import Newlines
from parallax.preference.selector import BestAgainstRest, Outcomes, pair_of, score_of
from parallax.records import Dropped, PreferencePair, Response, Sample, seed_for
from parallax.settings.ranges import Count, NotNegative


class SeveralPairs(BestAgainstRest):
    """Each pair has one rejected answer.

    Args:
        per_sample: most pairs of a sample.
        drop_contained: leave out pairs whose chosen answer stands word for word in the rejected one, in any case.
        seed: of the run; decides which pairs stay where there are more.
        num_negatives: must be 1.
        min_margin, drop_equal, drop_empty, drop_truncated, min_chars, max_chars, strip_newlines: see `BestAgainstRest`.
    """

    def __init__(
        self,
        per_sample: Count,
        *,
        drop_contained: bool = False,
        seed: int = 0,
        num_negatives: int = 1,
        min_margin: NotNegative | None = None,
        drop_equal: bool = True,
        drop_empty: bool = True,
        drop_truncated: bool = False,
        min_chars: Count | None = None,
        max_chars: Count | None = None,
        strip_newlines: Newlines = "space",
    ) -> None:
        if num_negatives != 1:
            raise ValueError(f"num_negatives is {num_negatives}; pairs of two answers each have 1 rejected one")
        super().__init__(
            1, min_margin=min_margin, drop_equal=drop_equal, drop_empty=drop_empty, drop_truncated=drop_truncated,
            min_chars=min_chars, max_chars=max_chars, strip_newlines=strip_newlines,
        )  # fmt: skip
        self.per_sample, self.drop_contained, self.seed = per_sample, drop_contained, seed

    def settings(self) -> dict[str, Any]:
        own = {"per_sample": self.per_sample, "drop_contained": self.drop_contained, "seed": self.seed}
        return {**super().settings(), **own}

    def _pairs(self, sample: Sample, responses: Sequence[Response], notes: Mapping[str, Any]) -> Outcomes:
        distinct = {(self.filters.normalise(r.text), score_of(r)): r for r in reversed(responses)}
        made: list[PreferencePair] = []
        reasons: list[str] = []
        for chosen, rejected in permutations(reversed(distinct.values()), 2):
            if score_of(chosen) <= score_of(rejected):
                continue
            found = self._decide(pair_of(sample, chosen, [rejected], notes))
            if isinstance(found, Dropped):
                reasons.append(found.reason)
            elif self.drop_contained and chosen.text.strip().casefold() in rejected.text.casefold():
                reasons.append("contained")
            else:
                made.append(found)
        if not made:
            return Dropped(sample.id, sample.source, reasons[0] if reasons else "small_margin")
        order = {place: seed_for(self.seed, sample.id, "pair", place) for place in range(len(made))}
        kept = sorted(sorted(order, key=lambda place: order[place])[: self.per_sample])
        return [made[place] for place in kept]
