"""Selectors: scored candidates in, pairs of one chosen and K rejected answers out, or a named reason to drop the sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from math import isnan
from typing import Any

from parallax.preference.filters import Filters, Newlines
from parallax.preference.judge import Scores, as_judgement
from parallax.records import Candidate, Dropped, PreferencePair, Response, Sample
from parallax.settings.part import Part
from parallax.settings.ranges import Count, Negatives, NotNegative

Outcomes = PreferencePair | Dropped | list[PreferencePair]


class Selector(Part, ABC):
    """Makes pairs of what a judge has scored."""

    @abstractmethod
    def select(self, sample: Sample, candidates: Sequence[Candidate], scores: Scores) -> Outcomes:
        """A pair, several pairs, or why there is none."""

    @abstractmethod
    def check(self, pair: PreferencePair) -> PreferencePair | Dropped:
        """The same rules for a pair that came ready-made."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that decides the outcome, as plain data."""


class BestAgainstRest(Selector):
    """The best-scored answer is chosen; the K worst of the others that pass the filters are rejected.

    All pairs of a set have the same K: a sample with fewer usable negatives is dropped, for the reason its negatives were
    removed (`equal`, `truncated`, …) when none is left, else as `too_few_negatives`.

    Args:
        num_negatives: K, at least 1.
        min_margin: smallest difference of scores between chosen and rejected; equal scores never make a pair.
        drop_equal, drop_empty, drop_truncated, min_chars, max_chars, strip_newlines: see `Filters`.
    """

    def __init__(
        self,
        num_negatives: Negatives = 1,
        *,
        min_margin: NotNegative | None = None,
        drop_equal: bool = True,
        drop_empty: bool = True,
        drop_truncated: bool = False,
        min_chars: Count | None = None,
        max_chars: Count | None = None,
        strip_newlines: Newlines = "space",
    ) -> None:
        self.num_negatives, self.min_margin = num_negatives, min_margin
        self.filters = Filters(drop_equal, drop_empty, drop_truncated, min_chars, max_chars, strip_newlines)

    def settings(self) -> dict[str, Any]:
        return {
            "selector": type(self).__name__,
            "num_negatives": self.num_negatives,
            "min_margin": self.min_margin,
            **asdict(self.filters),
        }

    def select(self, sample: Sample, candidates: Sequence[Candidate], scores: Scores) -> Outcomes:
        """`scores` belong to `candidates` one by one. Ties keep the proposer's order.

        A judgement without scores drops the sample for its reason; its notes are kept with the pair. Candidates without a score
        are left aside.
        """
        judged = as_judgement(scores)
        if judged.reason:
            return Dropped(sample.id, sample.source, judged.reason, judged.detail)
        values = judged.scores
        if len(candidates) != len(values):
            raise ValueError(f"{len(candidates)} candidates of sample {sample.id!r} came with {len(values)} scores")
        scored = [place for place, value in enumerate(values) if not isnan(value)]
        if len(scored) < 2:
            detail = f"{len(scored)} of {len(candidates)} candidates can be compared; a pair needs 2"
            return Dropped(sample.id, sample.source, "no_candidates", detail)
        each = judged.each or ({},) * len(values)
        responses = [_response(candidates[i], values[i], each[i]) for i in scored]
        return self._pairs(sample, responses, judged.notes)

    def _pairs(self, sample: Sample, responses: Sequence[Response], notes: Mapping[str, Any]) -> Outcomes:
        """What becomes of a sample's responses, two or more, each with a score."""
        best = max(range(len(responses)), key=lambda i: (score_of(responses[i]), -i))
        others = [response for place, response in enumerate(responses) if place != best]
        return self._decide(pair_of(sample, responses[best], sorted(others, key=score_of), notes))

    def check(self, pair: PreferencePair) -> PreferencePair | Dropped:
        """Apply the filters to a ready-made pair. Scores are compared where both sides have one."""
        return self._decide(pair)

    def _decide(self, pair: PreferencePair) -> PreferencePair | Dropped:
        def dropped(reason: str, detail: str = "") -> Dropped:
            return Dropped(pair.sample_id, pair.source, reason, detail)

        if (fault := self.filters.fault(pair.chosen)) is not None:
            return dropped(fault, "chosen")
        if pair.compares_images:  # equal answers on purpose
            return pair if self.num_negatives == 1 else dropped("too_few_negatives", f"1 of {self.num_negatives}")
        kept, reasons = self.filters.usable_rejected(pair.chosen, list(pair.rejected))
        far = [response for response in kept if self._far_enough(pair.chosen, response)]
        reasons += ["small_margin"] * (len(kept) - len(far))
        if not far:
            return dropped(reasons[0], "rejected" if len(reasons) == 1 else f"rejected: {', '.join(reasons)}")
        if len(far) < self.num_negatives:
            gone = f": {', '.join(reasons)}" if reasons else ""
            return dropped("too_few_negatives", f"{len(far)} of {self.num_negatives}{gone}")
        return replace(pair, rejected=tuple(far[: self.num_negatives]))

    def _far_enough(self, chosen: Response, rejected: Response) -> bool:
        if chosen.score is None or rejected.score is None:
            return True
        margin = chosen.score - rejected.score
        return margin > 0 and margin >= (self.min_margin or 0.0)


def score_of(response: Response) -> float:
    assert response.score is not None  # a judge gave it
    return response.score


def pair_of(sample: Sample, chosen: Response, rejected: list[Response], notes: Mapping[str, Any]) -> PreferencePair:
    asked = sample.conversation()
    return PreferencePair(
        sample_id=sample.id, source=sample.source, image=asked.images[0], prompt=asked.question, chosen=chosen,
        rejected=tuple(rejected), kind=sample.kind, meta={"judge": dict(notes)} if notes else {}, messages=asked.as_messages(),
    )  # fmt: skip


def _response(candidate: Candidate, score: float, notes: Mapping[str, Any]) -> Response:
    provenance = {
        "candidate": candidate.key,
        "role": candidate.role,
        "index": candidate.index,
        "finished": candidate.finished,
        **candidate.spec.as_data(),
        **({"judge": dict(notes)} if notes else {}),
    }
    return Response(candidate.text, candidate.token_ids, provenance, score)
