"""SIMA's proposer (arXiv 2405.15973, section 3.1): one greedy answer and n sampled ones to the same question on the same image.

Nothing says beforehand which is better; that is the judge's matter.
"""

from __future__ import annotations

from typing import Any, ClassVar

from parallax.models.generation.requests import GenerationRequest
from parallax.preference.proposer import Ask, PlannedProposer
from parallax.records import Decoding, Sample, ViewSpec, seed_for
from parallax.settings.ranges import Count, Negatives, PositiveShare, PositiveTemperature


class Sampled(PlannedProposer):
    """Greedy first, then samples, each with a seed of its own.

    Args:
        num_samples: n, at least 1.
        max_new_tokens: token limit of every answer.
        temperature: of the samples, above 0 (the paper: 0.8).
        top_p: share of probability kept when sampling (the paper: 0.9).
        greedy: whether a greedy answer comes first. Without it all answers are decoded alike (RLAIF-V, arXiv 2405.17220).
    """

    undecided: ClassVar[bool] = True  # no candidate is better by construction

    def __init__(
        self,
        num_samples: Negatives,
        *,
        max_new_tokens: Count,
        temperature: PositiveTemperature,
        top_p: PositiveShare,
        greedy: bool = True,
    ) -> None:
        self.num_samples, self.max_new_tokens = num_samples, max_new_tokens
        self.temperature, self.top_p, self.greedy = temperature, top_p, greedy

    def settings(self) -> dict[str, Any]:
        """Everything that decides the requests but the seed, as plain data."""
        return {
            "proposer": type(self).__name__,
            "num_samples": self.num_samples,
            "decoding": {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature, "top_p": self.top_p},
            **({} if self.greedy else {"greedy": False}),
        }

    def requests(self, sample: Sample, seed: int) -> list[Ask]:
        """The greedy request, which is the one that SeVa asks too, and n sampled ones."""
        asks = [self._ask(sample, "greedy", 0, Decoding(self.max_new_tokens))] if self.greedy else []
        for k in range(self.num_samples):
            own = seed_for(seed, sample.id, "decode/sample", k)
            asks.append(
                self._ask(sample, "sample", k, Decoding(self.max_new_tokens, self.temperature, self.top_p, own))
            )
        return asks

    def _ask(self, sample: Sample, role: str, index: int, decoding: Decoding) -> Ask:
        return Ask(role, index, GenerationRequest.about(sample, ViewSpec(), decoding))
