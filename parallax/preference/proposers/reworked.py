"""An answer against the model's own reworking of it, made worse by what the model is not shown.

- Dropout next-token prediction (MPO, arXiv 2411.10442, section 3.2): the rejected answer begins with the first half of the chosen
  one, by words, and is finished without the image. The released pipeline cuts at ⌊share · words⌋ (words between single spaces)
  and samples at temperature 0.7 with top-k 50, which is not offered here.
- Injected language bias (BPO, arXiv 2403.08730, section 3.2): the model, not shown the image, rewrites the chosen answer with
  errors. There the chosen answer is the data's (`of=ground_truth`); the model's own makes it self-supervised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from augment.view import View
from parallax.models.generation.requests import GenerationRequest
from parallax.preference.critic_prompt import fill
from parallax.preference.proposer import Ask
from parallax.preference.proposers.follow_up import FollowUp, drawn, seen
from parallax.preference.proposers.ground_truth import no_answer, written_answer
from parallax.records import Candidate, Sample
from parallax.settings.ranges import Count, Negatives, PositiveShare, Share, Temperature

if TYPE_CHECKING:
    from parallax.models.policy import Policy


class Reworked(FollowUp):
    """An answer is chosen; what the model makes of it under a view is rejected.

    Args:
        view: under which view the rejected answer is made; `no_image` takes the image out of the prompt.
        prompt: what is asked for the rejected answer; knows {question} and {answer}.
        keep: share of the chosen answer's words that the rejected one begins with.
        of: the chosen answer: the model's `own` greedy one, or the `ground_truth` of the data.
        num_negatives: K, each with a seed of its own.
        max_new_tokens: token limit of the chosen answer, and of what the rejected one adds to its start.
        temperature, top_p: of rejected answers; 0 is greedy.
    """

    view: View

    def __init__(
        self,
        view: View,
        prompt: str,
        num_negatives: Negatives = 1,
        *,
        keep: Share = 0.0,
        of: Literal["own", "ground_truth"],
        max_new_tokens: Count,
        temperature: Temperature,
        top_p: PositiveShare,
    ) -> None:
        self.view, self.prompt, self.num_negatives, self.keep, self.of = view, prompt, num_negatives, keep, of
        self.max_new_tokens, self.temperature, self.top_p = max_new_tokens, temperature, top_p

    def unfit(self, sample: Sample) -> tuple[str, str] | None:
        """Why there can be no pair: (reason, sentence), or None."""
        return no_answer(sample) if self.of == "ground_truth" else None

    def requests(self, sample: Sample, seed: int) -> list[Ask]:
        """The chosen answer, where the model gives it."""
        return super().requests(sample, seed) if self.of == "own" else []

    def follow_ups(self, sample: Sample, first: Sequence[Candidate], seed: int) -> list[Ask]:
        answer = first[0].text if first else (sample.answer or "").strip()
        asked = fill(self.prompt, {"question": sample.question, "answer": answer})
        asks = []
        for k in range(self.num_negatives):
            decoding = drawn(sample, seed, "reworked", k, self.max_new_tokens, self.temperature, self.top_p)
            view = seen(self.view, sample, seed, k)
            request = GenerationRequest.about(sample, view, decoding, asked, beginning(answer, self.keep))
            asks.append(Ask("rejected", k, request))
        return asks

    def candidates(
        self, policy: Policy, sample: Sample, first: Sequence[Candidate], then: Sequence[Candidate]
    ) -> list[Candidate]:
        chosen = first or [written_answer(policy, sample, "chosen", sample.answer or "", "ground truth")]
        return [*chosen, *then]


def beginning(text: str, share: float) -> str:
    """The first ⌊share · n⌋ of a text's n words, those that single spaces part.

    >>> beginning("The top row has a red star.", 0.5)
    'The top row'
    """
    words = text.split(" ")
    return " ".join(words[: int(share * len(words))]).strip()
