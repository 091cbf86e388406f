"""SENA's proposer (arXiv 2412.15650): an answer that the policy has improved, against its answer to a corrupted image.

The policy is shown the picture, its own description of it, the question and its answer, and gives a better one. The released code
does so with the clean answers of both kinds of question and keeps the old answer where the reply lacks a label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from parallax.models.generation.requests import GenerationRequest
from parallax.preference.critic_prompt import fill
from parallax.preference.prompts import PromptPool
from parallax.preference.proposer import Ask, PlannedProposer
from parallax.preference.proposers.follow_up import FollowUp, template
from parallax.preference.proposers.ground_truth import written_answer
from parallax.records import Candidate, Sample, ViewSpec
from parallax.settings.ranges import Count, Texts

if TYPE_CHECKING:
    from parallax.models.policy import Policy


class Improved(FollowUp):
    """What another proposer calls chosen, improved; its rejected answers stay.

    Args:
        inner: who proposes.
        describe: requests for the description that is shown; each image draws one.
        improve: asks for the better answer; knows {question}, {answer} and {description}. A mapping gives each kind of sample its
            own, and leaves the answers of other kinds as they are; None improves nothing.
        label: what the reply has to begin with; it is taken off. Without it the old answer stays. Empty asks for none.
        max_new_tokens: token limit of descriptions and improved answers.
    """

    def __init__(
        self,
        inner: PlannedProposer,
        describe: Texts,
        improve: str | Mapping[str, str] | None,
        *,
        label: str | None = None,
        max_new_tokens: Count,
    ) -> None:
        self.inner, self.view = inner, inner.view
        self.describe = PromptPool([describe] if isinstance(describe, str) else list(describe), "description")
        texts = {"": improve} if isinstance(improve, str) else dict(improve or {})
        self.improve = {kind: template(text, "improve", "question") for kind, text in texts.items() if text}
        self.label, self.max_new_tokens = label or "", max_new_tokens

    def requests(self, sample: Sample, seed: int) -> list[Ask]:
        """What the other proposer asks; with a description of the image behind it, where the answer is improved."""
        asks = self.inner.requests(sample, seed)
        if self._template(sample) is None:
            return asks
        prompt = self.describe.draw(seed, sample.image.describe())
        return [*asks, Ask("description", 0, GenerationRequest.about(sample, ViewSpec(), self.greedy, prompt))]

    def follow_ups(self, sample: Sample, first: Sequence[Candidate], seed: int) -> list[Ask]:
        if (text := self._template(sample)) is None:
            return []
        values = {"question": sample.question, "answer": first[0].text, "description": first[-1].text}
        return [Ask("chosen", 0, GenerationRequest.about(sample, ViewSpec(), self.greedy, fill(text, values)))]

    def candidates(
        self, policy: Policy, sample: Sample, first: Sequence[Candidate], then: Sequence[Candidate]
    ) -> list[Candidate]:
        proposed = [candidate for candidate in first if candidate.role != "description"]
        if not then or not then[0].text.startswith(self.label) or not then[0].text.removeprefix(self.label).strip():
            return proposed
        better = then[0]
        if self.label:
            said = better.text.removeprefix(self.label).strip()
            better = written_answer(policy, sample, "chosen", said, "improved by the policy")
        return [better, *proposed[1:]]

    def _template(self, sample: Sample) -> str | None:
        return self.improve.get(sample.kind, self.improve.get(""))

    def settings(self) -> dict[str, Any]:
        return {key: value for key, value in super().settings().items() if key != "view"}
