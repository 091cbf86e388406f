"""No judge at all: how a candidate came about already says which is better (SeVa, arXiv 2404.10501, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from parallax.preference.judge import Judge
from parallax.preference.proposer import Generate
from parallax.records import Candidate, Sample

if TYPE_CHECKING:
    from parallax.models.policy import Policy


class ByConstruction(Judge):
    """1 for candidates proposed as chosen, 0 for all others."""

    judges_by_role: ClassVar[bool] = True
    scores_leaves: ClassVar[bool] = False  # of sentence trees

    name = "by_construction"

    def judge(
        self,
        policy: Policy,
        samples: Sequence[Sample],
        candidates: Sequence[Sequence[Candidate]],
        *,
        seed: int = 0,
        generate: Generate | None = None,
    ) -> list[list[float]]:
        """Scores 1.0 or 0.0 by role."""
        return [[1.0 if candidate.role == "chosen" else 0.0 for candidate in group] for group in candidates]
