"""SeVa's proposer (arXiv 2404.10501, section 3): the same question on the clean image and on corrupted views of it.

Chosen: greedy on the clean image. Rejected: greedy on each of K views, every view with a seed of its own
(equations 15-18 for K > 1). Nothing is asked but the model itself.
"""

from __future__ import annotations

from typing import Any

from augment.registry import spec_of
from augment.view import View, generator_for
from parallax.models.generation.requests import GenerationRequest
from parallax.preference.proposer import Ask, PlannedProposer
from parallax.records import Decoding, Sample, ViewSpec, seed_for
from parallax.settings.ranges import Count, Negatives, PositiveShare, Temperature


class ByView(PlannedProposer):
    """Clean image against K views of it, by construction.

    Args:
        view: what corrupts the image; a mixture draws one of its views per negative, `several` takes them in turn.
        num_negatives: K, at least 1.
        max_new_tokens: token limit of every answer.
        temperature: 0 is greedy, as in the paper; above 0 both sides are sampled, each with its sample's own seed.
        top_p: share of probability kept when sampling.
    """

    view: View

    def __init__(
        self,
        view: View,
        num_negatives: Negatives = 1,
        *,
        max_new_tokens: Count,
        temperature: Temperature = 0.0,
        top_p: PositiveShare = 1.0,
    ) -> None:
        self.view, self.num_negatives = view, num_negatives
        self.max_new_tokens, self.temperature, self.top_p = max_new_tokens, temperature, top_p

    def settings(self) -> dict[str, Any]:
        """Everything that decides the requests but the seed, as plain data."""
        return {
            "proposer": type(self).__name__,
            "view": {"name": self.view.name, "params": self.view.params()},
            "num_negatives": self.num_negatives,
            "decoding": {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature, "top_p": self.top_p},
        }

    def requests(self, sample: Sample, seed: int) -> list[Ask]:
        """One clean request and K corrupted ones. The clean one does not depend on the view, so it is reused across views."""
        asks = [self._ask(sample, seed, "chosen", 0, ViewSpec())]
        for k in range(self.num_negatives):
            drawn = self.view.draw(generator_for(seed_for(seed, sample.id, "mixture", k)), k)
            asks.append(self._ask(sample, seed, "rejected", k, spec_of(drawn, seed_for(seed, sample.id, "view", k))))
        return asks

    def _ask(self, sample: Sample, seed: int, role: str, index: int, view: ViewSpec) -> Ask:
        decoding = Decoding(self.max_new_tokens)
        if self.temperature > 0:
            own = seed_for(seed, sample.id, f"decode/{role}", index)
            decoding = Decoding(self.max_new_tokens, self.temperature, self.top_p, own)
        return Ask(role, index, GenerationRequest.about(sample, view, decoding))
