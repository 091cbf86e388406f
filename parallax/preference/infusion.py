"""Descriptions put before questions: the policy first says what it sees, and what it said then stands in the prompt.

STIC (arXiv 2405.19716) does so twice: its second stage tunes on such prompts (section 4.2), and at inference the model describes
the image and then answers with the description at hand (section 4.3). The image is there in both steps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from parallax.models.generation.requests import GenerationRequest
from parallax.preference.prompts import PromptPool
from parallax.records import Decoding, Sample, ViewSpec, seed_for
from parallax.settings.ranges import Count, PositiveShare, Temperature, Texts


def infuse(template: str, description: str, question: str) -> str:
    """The prompt with both texts in their places. Braces inside the texts stay as they are.

    >>> infuse("Image description:\\n{description}\\n\\n{question}", "A cat.", "What colour is it?")
    'Image description:\\nA cat.\\n\\nWhat colour is it?'
    """
    values = {"description": description.strip(), "question": question}
    return re.sub(r"\{(description|question)\}", lambda found: values[found[1]], template)


def check_template(template: str, key: str) -> str:
    """`template` if it has a place for each text, once. Raises ValueError naming the key otherwise."""
    if template.count("{description}") != 1 or template.count("{question}") != 1:
        raise ValueError(f"{key}={template!r} must hold {{description}} and {{question}}, each once")
    return template


@dataclass(frozen=True)
class Describe:
    """Ask for a description with one prompt, greedily: the first step of describe-and-respond.

    Args:
        prompt: the request for a description.
        max_new_tokens: token limit of a description.
        template: where description and question stand in the prompt of the second step.
    """

    prompt: str
    max_new_tokens: Count
    template: str

    def __post_init__(self) -> None:
        check_template(self.template, "evaluation.describe_template")

    def request(self, sample: Sample, view: ViewSpec) -> GenerationRequest:
        return GenerationRequest.about(sample, view, Decoding(self.max_new_tokens), self.prompt)


class Infusion:
    """The policy's own description before the first question of every sample; answers stay as they are.

    Args:
        prompts: requests for a description; each sample draws its own.
        template: where description and question stand.
        max_new_tokens: token limit of a description.
        temperature: 0 is greedy; the paper samples at 0.2.
        top_p: share of probability kept when sampling.
    """

    def __init__(
        self,
        prompts: Texts,
        template: str,
        *,
        max_new_tokens: Count,
        temperature: Temperature,
        top_p: PositiveShare,
    ) -> None:
        self.pool = PromptPool([prompts] if isinstance(prompts, str) else list(prompts), "infusion")
        self.template = check_template(template, "template")
        self.max_new_tokens, self.temperature, self.top_p = max_new_tokens, temperature, top_p

    def request(self, sample: Sample, seed: int) -> GenerationRequest:
        """Ask for the sample's description. A pure function of its arguments."""
        decoding = Decoding(self.max_new_tokens)
        if self.temperature > 0:
            own = seed_for(seed, sample.id, "decode/description")
            decoding = Decoding(self.max_new_tokens, self.temperature, self.top_p, own)
        return GenerationRequest.about(sample, ViewSpec(), decoding, self.pool.draw(seed, sample.id))

    def question(self, description: str, question: str) -> str:
        """The question with the description before it."""
        return infuse(self.template, description, question)
