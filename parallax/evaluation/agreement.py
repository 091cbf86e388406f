"""How often a judge agrees with the known truth, against chance.

Of two answers to one image the true preference is the one with fewer hallucinated mentions (CHAIR's count); where both have
as many, the one that mentions more of what is there; where that is equal too there is no truth to agree with.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from math import isnan
from typing import TYPE_CHECKING, Any

from parallax.evaluation.coco_words import chair_counts
from parallax.preference.judge import Judge, as_judgement
from parallax.preference.proposer import Generate, Unanswerable
from parallax.records import Candidate, Decoding, Sample, seed_for

if TYPE_CHECKING:
    from parallax.models.generation.requests import GenerationRequest
    from parallax.models.policy import Policy


def true_preference(first: Sequence[str], second: Sequence[str], truth: Collection[str]) -> int | None:
    """0 or 1: the place of the better answer, by the objects that each mentions; None where neither is better."""
    one, two = (chair_counts(mentioned, truth) for mentioned in (first, second))
    if one.hallucinated != two.hallucinated:
        return 0 if one.hallucinated < two.hallucinated else 1
    if one.found != two.found:
        return 0 if one.found > two.found else 1
    return None


@dataclass(frozen=True, slots=True)
class Agreement:
    """A judge's decisions against the truth.

    `right` of `decided` decisions were right; `undecided` comparisons have a truth and got no decision. `low` and `high` are the
    95 % interval of the share (Wilson's).
    """

    right: int
    decided: int
    undecided: int
    share: float | None
    low: float
    high: float

    def as_data(self) -> dict[str, Any]:
        return asdict(self)

    def words(self) -> str:
        """E.g. `61.2 % of 85 decisions agree with the truth (95 % interval 50.6 to 70.9 %): not distinguishable from …`."""
        if self.share is None:
            return f"no decision to compare with the truth ({self.undecided} comparisons were left undecided)"
        verdict = (
            "better than chance"
            if self.low > 0.5
            else "worse than chance"
            if self.high < 0.5
            else "no better than chance"
        )
        return (
            f"{self.share:.1%} of {self.decided} decisions agree with the truth (95 % interval {self.low:.1%} to "
            f"{self.high:.1%}; chance is 50 %): {verdict}; {self.undecided} comparisons were left undecided"
        )


def agreement(decisions: Sequence[int | None], truths: Sequence[int | None]) -> Agreement:
    """Count decisions (place of the preferred answer, None for none) against truths; comparisons without truth are left out."""
    both = [(said, true) for said, true in zip(decisions, truths, strict=True) if true is not None]
    decided = [(said, true) for said, true in both if said is not None]
    right = sum(said == true for said, true in decided)
    low, high = wilson(right, len(decided))
    share = right / len(decided) if decided else None
    return Agreement(right, len(decided), len(both) - len(decided), share, low, high)


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927); (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


Answer = tuple[str, bool]  # text, finished


@dataclass(frozen=True)
class BestOf:
    """The usual answer and n - 1 sampled ones, and who picks among them.

    Args:
        n: answers of each question, 2 or more.
        judge: the best by its scores is taken; the usual answer where it has none to give, and where others are no better.
        temperature: of the samples.
    """

    n: int
    judge: Judge
    temperature: float = 0.7

    def sampled(self, request: GenerationRequest, number: int, seed: int) -> GenerationRequest:
        """The request of sample `number`, from 1."""
        own = seed_for(seed, request.sample_id, "best of", number)
        return replace(request, decoding=Decoding(request.decoding.max_new_tokens, self.temperature, 1.0, own))

    def pick(
        self,
        policy: Policy,
        asked: Sequence[tuple[Sample, GenerationRequest]],
        tries: Sequence[dict[str, Answer]],
        *,
        seed: int,
        generate: Generate,
    ) -> dict[str, Answer]:
        """The best answer of each sample. `tries` are answers by sample id, the usual ones first."""
        left = {sample.id: (sample, _candidates(policy, request, tries)) for sample, request in asked}
        chosen = {sample_id: tries[0][sample_id] for sample_id in left}
        while left:
            samples, groups = [sample for sample, _ in left.values()], [group for _, group in left.values()]
            try:
                judged = self.judge.judge(policy, samples, groups, seed=seed, generate=generate)
            except Unanswerable as error:
                left = {sample_id: item for sample_id, item in left.items() if sample_id not in error.why}
                continue
            for sample, group, own in zip(samples, groups, judged, strict=True):
                able = [(score, -place) for place, score in enumerate(as_judgement(own).scores) if not isnan(score)]
                if able:
                    best = group[-max(able)[1]]
                    chosen[sample.id] = best.text, best.finished
            break
        return chosen

    def settings(self) -> dict[str, Any]:
        return {"n": self.n, "temperature": self.temperature, "judge": self.judge.settings() or self.judge.name}


def _candidates(policy: Policy, request: GenerationRequest, tries: Sequence[dict[str, Answer]]) -> list[Candidate]:
    spec = policy.spec(request)
    return [
        Candidate(spec.key(), request.sample_id, "sample", number, (), *answers[request.sample_id], spec)
        for number, answers in enumerate(tries)
        if request.sample_id in answers
    ]
