"""Judges give candidates scores: higher is better, comparable within one sample only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from parallax.records import Candidate, Sample


class Judge(Protocol):
    """(policy, samples, candidates) → scores."""

    name: str

    def judge(
        self, policy: Any, samples: Sequence[Sample], candidates: Sequence[Sequence[Candidate]]
    ) -> list[list[float]]:
        """One score per candidate, in the order given."""
        ...
