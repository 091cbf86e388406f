"""Proposers say which answers to ask for. What they bring back are candidates; who is better is a judge's matter.

A proposer whose questions do not depend on answers plans them all beforehand (`requests`), so that only what is missing
in the store is generated, in large batches. A proposer that asks on (a search) plans nothing and calls `generate` as it goes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parallax.models.generation.requests import GenerationRequest
from parallax.records import Candidate, Sample
from parallax.settings.part import Part

if TYPE_CHECKING:
    from augment.view import View
    from parallax.models.policy import Policy


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


class Proposer(Part, ABC):
    """(policy, samples) → candidates per sample. What it does not override has a default that fits most."""

    built: int = (
        0  # searches made by this object, and searches whose result it found; nothing for a proposer that only asks
    )
    reused: int = 0
    view: View | None = None  # what corrupts the image of rejected answers, where there is one

    @abstractmethod
    def propose(
        self, policy: Policy, samples: Sequence[Sample], *, seed: int, generate: Generate
    ) -> list[list[Candidate]]:
        """Candidates of each sample, in the order of `samples`. `seed` is the run's seed."""

    def settings(self) -> dict[str, Any]:
        """Everything that decides what is asked but the seed, as plain data. It is a part of a pair set's name."""
        return {"proposer": type(self).__name__}

    def trained_question(self, sample: Sample, seed: int) -> str:
        """The question that the sample's pair is trained on."""
        return sample.question

    def unfit(self, sample: Sample) -> tuple[str, str] | None:
        """(reason, sentence) for a sample it cannot work with, else None."""
        return None


class PlannedProposer(Proposer):
    """A proposer that knows all its requests without seeing an answer: it writes `requests` and nothing else."""

    @abstractmethod
    def requests(self, sample: Sample, seed: int) -> list[Ask]:
        """All that is asked about one sample. A pure function of its arguments."""

    def propose(
        self, policy: Policy, samples: Sequence[Sample], *, seed: int, generate: Generate
    ) -> list[list[Candidate]]:
        """Ask everything at once, hand the answers out per sample, in the order of `requests`."""
        asks = [self.requests(sample, seed) for sample in samples]
        answers = iter(generate([ask for group in asks for ask in group]))
        return [[next(answers) for _ in group] for group in asks]


class SearchProposer(Proposer):
    """A proposer whose next question depends on the last answer. It keeps what it found under all that determines it."""

    @abstractmethod
    def search(self, policy: Policy, samples: Sequence[Sample], *, seed: int) -> None:
        """Do and keep what is missing for these samples; `propose` then finds it. Samples that fail are left out."""
