"""No proposer at all: the pairs come ready-made from a file, and nothing is asked of the policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from parallax.preference.proposer import Generate, Proposer
from parallax.records import Candidate, Sample

if TYPE_CHECKING:
    from parallax.models.policy import Policy


class Given(Proposer):
    """Stands where a proposer would, for sources that bring their own pairs."""

    takes_pairs: ClassVar[bool] = True  # the source's own
    chosen_is_given: ClassVar[bool] = True

    def propose(
        self, policy: Policy, samples: Sequence[Sample], *, seed: int, generate: Generate
    ) -> list[list[Candidate]]:
        """Never called for sources with pairs; for others it says what to choose instead."""
        raise ValueError(
            "this source has no ready-made pairs; use data=preference_file with method=dpo_file, or a method that makes pairs, "
            "such as method=seva"
        )
