"""Judges give candidates scores: higher is better, comparable within one sample only.

A judge that asks a model does so through `generate`, as proposers do: what it was told is then kept under all that
determined it, shared over processes, and found again when a build is repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from parallax.preference.proposer import Generate
from parallax.records import Candidate, Sample


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge says about one sample, where there is more to say than scores.

    Either `scores` (one per candidate) or a `reason` why there are none: a short name that is counted (`tie`, …).
    """

    scores: tuple[float, ...] = ()
    reason: str = ""
    detail: str = ""  # beside the reason
    notes: Mapping[str, Any] = field(default_factory=dict)  # plain data, kept with the pair
    each: tuple[Mapping[str, Any], ...] = ()  # plain data per candidate, kept with the response; or empty
    counts: Mapping[str, int] = field(default_factory=dict)  # summed over a build, shown in its report


Scores = Sequence[float] | Judgement


class Judge(Protocol):
    """(policy, samples, candidates) → scores.

    A judge may also have `settings()` (plain data for the manifest) and `words(counts)` (one line about a build).
    """

    name: str

    def judge(
        self,
        policy: Any,
        samples: Sequence[Sample],
        candidates: Sequence[Sequence[Candidate]],
        *,
        seed: int,
        generate: Generate,
    ) -> Sequence[Scores]:
        """Per sample: one score per candidate, in the order given, or a `Judgement`. `seed` is the run's seed."""
        ...


def as_judgement(scores: Scores) -> Judgement:
    """Plain scores as a judgement."""
    return scores if isinstance(scores, Judgement) else Judgement(tuple(float(score) for score in scores))
