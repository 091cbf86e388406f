"""Proposers say which answers to ask for. What they bring back are candidates; who is better is a judge's matter.

A proposer whose questions do not depend on answers plans them all beforehand (`requests`), so that only what is missing
in the store is generated, in large batches. A proposer that asks on (a search) plans nothing and calls `generate` as it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from parallax.models.generation.requests import GenerationRequest
from parallax.records import Candidate, Sample


@dataclass(frozen=True, slots=True)
class Ask:
    """One planned answer: what it is meant for ("chosen", "rejected", …), its number within that role, and the request."""

    role: str
    index: int
    request: GenerationRequest


class Unanswerable(Exception):
    """Some requests cannot be answered. `why`: sample id -> one sentence. The samples are set aside, the others go on."""

    def __init__(self, why: dict[str, str]) -> None:
        super().__init__("; ".join(why.values()))
        self.why = why


Generate = Callable[[Sequence[Ask]], list[Candidate]]  # from the store where known, by the policy where not; same order


class Proposer(Protocol):
    """(policy, samples) → candidates per sample.

    A proposer may also have `trained_question(sample, seed)`, the question its pairs are trained on where that is not the
    sample's own, and `unfit(sample)`, which gives (reason, sentence) for a sample it cannot work with, else None.
    """

    def propose(
        self, policy: Any, samples: Sequence[Sample], *, seed: int, generate: Generate
    ) -> list[list[Candidate]]:
        """Candidates of each sample, in the order of `samples`. `seed` is the run's seed."""
        ...


@runtime_checkable
class PlannedProposer(Protocol):
    """A proposer that knows all its requests without seeing an answer."""

    def requests(self, sample: Sample, seed: int) -> list[Ask]:
        """All that is asked about one sample. A pure function of its arguments."""
        ...


@runtime_checkable
class SearchProposer(Protocol):
    """A proposer whose next question depends on the last answer. It keeps what it found under all that determines it.

    Attributes:
        built, reused: searches made by this object, and searches whose result it found.
    """

    built: int
    reused: int

    def search(self, policy: Any, samples: Sequence[Sample], *, seed: int) -> None:
        """Do and keep what is missing for these samples; `propose` then finds it. Samples that fail are left out."""
        ...


def propose_planned(
    proposer: PlannedProposer, samples: Sequence[Sample], *, seed: int, generate: Generate
) -> list[list[Candidate]]:
    """`propose` of any planned proposer: ask everything at once, hand the answers out per sample."""
    asks = [proposer.requests(sample, seed) for sample in samples]
    answers = iter(generate([ask for group in asks for ask in group]))
    return [[next(answers) for _ in group] for group in asks]
