"""STIC's proposer (arXiv 2405.19716, section 4.1): the same image asked well, and asked badly or shown badly.

Chosen: a prompt that asks for a careful look, step by step, on the clean image. Rejected: with probability `bad_share` a prompt
that invites imagined things, on the clean image; else the neutral prompt on a corrupted image. The pair is trained on under
the neutral prompt alone: neither the good nor the bad wording is ever seen in training.
"""

from __future__ import annotations

from typing import Any

from augment.registry import spec_of
from augment.view import View, generator_for
from parallax.models.generation.requests import GenerationRequest
from parallax.preference.prompts import PromptPool
from parallax.preference.proposer import Ask, PlannedProposer
from parallax.records import Decoding, Sample, ViewSpec, seed_for
from parallax.settings.ranges import Count, Negatives, PositiveShare, Share, Temperature, Texts


class ByPrompt(PlannedProposer):
    """Good prompt against bad prompt or corrupted image, by construction. The sample's own question is not used.

    Args:
        good, neutral, bad: pools of prompts; each sample draws its own of each, by its own seed.
        view: what corrupts the image.
        bad_share: probability of the bad prompt rather than the corrupted image, 0 to 1.
        num_negatives: K, at least 1; each rejected answer draws bad prompt or corruption anew.
        max_new_tokens: token limit of every answer.
        temperature: 0 is greedy; the paper samples at 0.2.
        top_p: share of probability kept when sampling.
    """

    view: View

    def __init__(
        self,
        good: Texts,
        neutral: Texts,
        bad: Texts,
        view: View,
        bad_share: Share,
        num_negatives: Negatives,
        *,
        max_new_tokens: Count,
        temperature: Temperature,
        top_p: PositiveShare,
    ) -> None:
        self.good, self.neutral, self.bad = (
            PromptPool([texts] if isinstance(texts, str) else list(texts), name)
            for texts, name in ((good, "good"), (neutral, "neutral"), (bad, "bad"))
        )
        self.view, self.bad_share, self.num_negatives = view, bad_share, num_negatives
        self.max_new_tokens, self.temperature, self.top_p = max_new_tokens, temperature, top_p

    def settings(self) -> dict[str, Any]:
        """Everything that decides the requests but the seed, as plain data."""
        return {
            "proposer": type(self).__name__,
            "good": list(self.good), "neutral": list(self.neutral), "bad": list(self.bad),
            "view": {"name": self.view.name, "params": self.view.params()},
            "bad_share": self.bad_share,
            "num_negatives": self.num_negatives,
            "decoding": {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature, "top_p": self.top_p},
        }  # fmt: skip

    def trained_question(self, sample: Sample, seed: int) -> str:
        """The neutral prompt the sample's pair is trained on."""
        return self.neutral.draw(seed, sample.id)

    def requests(self, sample: Sample, seed: int) -> list[Ask]:
        """The good request, then K rejected ones. A pure function of its arguments."""
        asks = [self._ask(sample, seed, "chosen", 0, self.good.draw(seed, sample.id), ViewSpec())]
        for k in range(self.num_negatives):
            if self._draws_bad_prompt(sample, seed, k):
                asks.append(self._ask(sample, seed, "rejected", k, self.bad.draw(seed, sample.id, k), ViewSpec()))
                continue
            drawn = self.view.draw(generator_for(seed_for(seed, sample.id, "mixture", k)), k)
            view = spec_of(drawn, seed_for(seed, sample.id, "view", k))
            asks.append(self._ask(sample, seed, "rejected", k, self.trained_question(sample, seed), view))
        return asks

    def _draws_bad_prompt(self, sample: Sample, seed: int, k: int) -> bool:
        return seed_for(seed, sample.id, "bad prompt or corrupted image", k) % 1_000_000 < self.bad_share * 1_000_000

    def _ask(self, sample: Sample, seed: int, role: str, index: int, prompt: str, view: ViewSpec) -> Ask:
        decoding = Decoding(self.max_new_tokens)
        if self.temperature > 0:
            own = seed_for(seed, sample.id, f"decode/{role}", index)
            decoding = Decoding(self.max_new_tokens, self.temperature, self.top_p, own)
        return Ask(role, index, GenerationRequest.about(sample, view, decoding, prompt))
