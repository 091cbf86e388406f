"""Several proposers as one: the chosen answer of the first against the rejected answers of all (BPO, arXiv 2403.08730)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Len

from parallax.preference.proposer import Ask, Generate, PlannedProposer, Proposer
from parallax.preference.proposers.follow_up import FollowUp
from parallax.records import Candidate, Sample

if TYPE_CHECKING:
    from parallax.models.policy import Policy


class Joined(Proposer):
    """The chosen answer of the first of `parts`, and the rejected answers of all of them."""

    def __init__(self, parts: Annotated[Sequence[Proposer], Len(1)]) -> None:
        self.parts = list(parts)
        self.view = next((part.view for part in parts if part.view is not None), None)

    def settings(self) -> dict[str, Any]:
        return {"proposer": type(self).__name__, "parts": [part.settings() for part in self.parts]}

    def unfit(self, sample: Sample) -> tuple[str, str] | None:
        """Why one of them cannot work with the sample, or None."""
        return next((fault for part in self.parts if (fault := part.unfit(sample)) is not None), None)

    def trained_question(self, sample: Sample, seed: int) -> str:
        """The first one's."""
        return self.parts[0].trained_question(sample, seed)

    def requests(self, sample: Sample, seed: int) -> list[Ask]:
        """The first one's, for stages that learn chosen answers."""
        first = self.parts[0]
        return first.requests(sample, seed) if isinstance(first, PlannedProposer | FollowUp) else []

    def propose(
        self, policy: Policy, samples: Sequence[Sample], *, seed: int, generate: Generate
    ) -> list[list[Candidate]]:
        """Chosen first, then the rejected ones of each part, numbered on."""
        made = [part.propose(policy, samples, seed=seed, generate=generate) for part in self.parts]
        groups = []
        for own in zip(*made, strict=True):
            rejected = [candidate for group in own for candidate in group if candidate.role == "rejected"]
            chosen = next(candidate for candidate in own[0] if candidate.role == "chosen")
            groups.append([chosen, *(replace(candidate, index=k) for k, candidate in enumerate(rejected))])
        return groups
