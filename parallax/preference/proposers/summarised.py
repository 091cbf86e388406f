"""SHAPE's proposer (arXiv 2503.04858): several views of an image are answered, and a summary of these answers is chosen.

Only the paper's abstract was at hand: the views, how many, the summary's prompt and what is rejected are our reading. The
rejected answer is the one to the clean image, or to a corrupted one. Longer texts are an easy way to be better:
`max_length_ratio` keeps the old answer where the summary is longer than that.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from augment.view import View
from parallax.models.generation.requests import GenerationRequest
from parallax.preference.critic_prompt import fill, one_line
from parallax.preference.proposer import Ask
from parallax.preference.proposers.follow_up import FollowUp, seen, template
from parallax.preference.proposers.ground_truth import written_answer
from parallax.records import Candidate, Decoding, Sample, ViewSpec
from parallax.settings.ranges import Count, Negatives, Positive, PositiveShare

if TYPE_CHECKING:
    from parallax.models.policy import Policy


class Summarised(FollowUp):
    """The policy's summary of its answers to several views is chosen, its answer to one image is rejected.

    Args:
        views: what the image is shown through beside itself; `several` takes its views in turn.
        num_views: how many such views.
        prompt: asks for the summary; knows {question} and {answers} (one a line). None takes the sentences that `agree` of the
            answers share, in the order in which they are first said: for models that cannot write a summary.
        against: the view whose answers are rejected; None rejects the answer to the clean image.
        num_negatives: K, more than 1 only with a view in `against`.
        agree: share of the answers that must have a sentence.
        max_length_ratio: a summary with more words than this times the clean answer's is not used: the pair is dropped as equal.
        max_new_tokens: token limit of every answer.
    """

    def __init__(
        self,
        views: View,
        prompt: str | None,
        num_views: Count,
        *,
        against: View | None = None,
        num_negatives: Negatives,
        agree: PositiveShare,
        max_length_ratio: Positive | None = None,
        max_new_tokens: Count,
    ) -> None:
        if num_negatives > 1 and against is None:
            raise ValueError(
                f"num_negatives is {num_negatives}, and the clean image has one greedy answer; name a view in `against`"
            )
        self.views, self.num_views, self.against, self.num_negatives = views, num_views, against, num_negatives
        self.prompt = None if prompt is None else template(prompt, "prompt", "question", "answers")
        self.agree, self.max_length_ratio, self.max_new_tokens = agree, max_length_ratio, max_new_tokens

    def requests(self, sample: Sample, seed: int) -> list[Ask]:
        """The clean answer, one for each weak view, and those that are rejected where a view makes them."""
        weak = [seen(self.views, sample, seed, k, "weak view") for k in range(self.num_views)]
        asks = [
            self._ask(sample, "clean", 0, ViewSpec()),
            *(self._ask(sample, "view", k, v) for k, v in enumerate(weak)),
        ]
        if self.against is not None:
            bad = [seen(self.against, sample, seed, k) for k in range(self.num_negatives)]
            asks += [self._ask(sample, "rejected", k, view) for k, view in enumerate(bad)]
        return asks

    def follow_ups(self, sample: Sample, first: Sequence[Candidate], seed: int) -> list[Ask]:
        if self.prompt is None:
            return []
        answers = "\n".join(one_line(candidate.text) for candidate in first[: 1 + self.num_views])
        asked = fill(self.prompt, {"question": sample.question, "answers": answers})
        return [Ask("chosen", 0, GenerationRequest.about(sample, ViewSpec(), self.greedy, asked))]

    def candidates(
        self, policy: Policy, sample: Sample, first: Sequence[Candidate], then: Sequence[Candidate]
    ) -> list[Candidate]:
        clean, bad = first[0], first[1 + self.num_views :]
        if then:
            chosen = then[0]
        else:
            shared = shared_sentences([candidate.text for candidate in first[: 1 + self.num_views]], self.agree)
            chosen = written_answer(policy, sample, "chosen", shared, "sentences its answers share")
        ratio = len(chosen.text.split()) / max(1, len(clean.text.split()))
        if self.max_length_ratio is not None and ratio > self.max_length_ratio:
            chosen = clean.as_role("chosen", 0)
        return [chosen, *(bad or [clean.as_role("rejected", 0)])]

    def _ask(self, sample: Sample, role: str, k: int, view: ViewSpec) -> Ask:
        return Ask(role, k, GenerationRequest.about(sample, view, Decoding(self.max_new_tokens)))


def shared_sentences(texts: Sequence[str], agree: float) -> str:
    """The sentences that a share of the texts have, each once, in the order in which they are first said.

    >>> shared_sentences(["A dog. A cat.", "A dog. A bird.", "A bird."], 0.6)
    'A dog. A bird.'
    """
    said = [dict.fromkeys(re.split(r"(?<=[.!?])\s+", text.strip())) for text in texts]
    counts = Counter(sentence for sentences in said for sentence in sentences if sentence)
    return " ".join(sentence for sentence, count in counts.items() if count >= agree * len(texts))
