"""Judges give candidates scores: higher is better, comparable within one sample only.

A judge that asks a model does so through `generate`, as proposers do: what it was told is then kept under all that
determined it, shared over processes, and found again when a build is repeated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from parallax.preference.proposer import Generate
from parallax.records import Candidate, Sample
from parallax.settings.part import Part

if TYPE_CHECKING:
    from parallax.models.policy import Policy


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge says about one sample, where there is more to say than scores.

    Either `scores` (one per candidate) or a `reason` why there are none: a short name that is counted (`tie`, …).
    """

    scores: tuple[float, ...] = ()  # UNSCORED for a candidate that cannot be compared
    reason: str = ""
    detail: str = ""  # beside the reason
    notes: Mapping[str, Any] = field(default_factory=dict)  # plain data, kept with the pair
    each: tuple[Mapping[str, Any], ...] = ()  # plain data per candidate, kept with the response; or empty
    counts: Mapping[str, int] = field(default_factory=dict)  # summed over a build, shown in its report


Scores = Sequence[float] | Judgement
UNSCORED = float("nan")  # of a candidate that a judge can say nothing about: it stands in no pair


class Judge(Part, ABC):
    """(policy, samples, candidates) → scores. `name` is how logs call it."""

    name: str = "judge"

    @abstractmethod
    def judge(
        self,
        policy: Policy,
        samples: Sequence[Sample],
        candidates: Sequence[Sequence[Candidate]],
        *,
        seed: int,
        generate: Generate,
    ) -> Sequence[Scores]:
        """Per sample: one score per candidate, in the order given, or a `Judgement`. `seed` is the run's seed."""

    def settings(self) -> dict[str, Any]:
        """Everything that decides its scores, as plain data; nothing where the name says it all."""
        return {}

    def words(self, counts: Mapping[str, int]) -> str:
        """One line about a build, from what its judgements counted."""
        return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def as_judgement(scores: Scores) -> Judgement:
    """Plain scores as a judgement."""
    return scores if isinstance(scores, Judgement) else Judgement(tuple(float(score) for score in scores))
