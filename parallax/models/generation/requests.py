"""What a policy is asked to say and what it answered: plain, picklable values that no tensor is part of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from parallax.models.encoding.prompt_encoder import PromptEncoder
from parallax.records import Conversation, Decoding, ImageRef, Message, Sample, ViewSpec


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One answer to be generated: this image, seen through this view, asked this prompt, decoded so.

    `prompt` is the user's text without any image placeholder; the chat template puts the one image in its place. `messages` are
    all before the answer where that is more than one image and one question; `image` is then the first and `prompt` the last.
    `answer_start` is a text that the answer begins with: the model goes on from there, `max_new_tokens` counts what it adds, and
    the answer holds both.
    """

    sample_id: str
    image: ImageRef
    prompt: str
    view: ViewSpec
    decoding: Decoding
    messages: tuple[Message, ...] = ()
    answer_start: str = ""

    @classmethod
    def about(
        cls, sample: Sample, view: ViewSpec, decoding: Decoding, prompt: str | None = None, answer_start: str = ""
    ) -> GenerationRequest:
        """The sample's first question, or `prompt` in its place."""
        asked = sample.conversation(prompt)
        return cls(sample.id, asked.images[0], asked.question, view, decoding, asked.as_messages(), answer_start)

    @property
    def conversation(self) -> Conversation:
        """All that is shown and said before the answer."""
        return Conversation(self.messages) if self.messages else Conversation.plain(self.image, self.prompt)


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer. `token_ids` end with the end token when `finished`; False means cut by the token limit.

    `text` is decoded without special tokens and without surrounding whitespace.
    """

    token_ids: tuple[int, ...]
    text: str
    finished: bool

    def after(self, start: Sequence[int], encoder: PromptEncoder) -> Generation:
        """The whole answer, where this is how it went on from these tokens."""
        ids = (*start, *self.token_ids)
        return Generation(ids, encoder.decode(ids), self.finished)


class NotFinite(ValueError):
    """The model's logits were no finite numbers, so that what it "said" is no answer."""


class BadAnswer(ValueError):
    """An answer that cannot be one: control tokens stand inside it. The message says which."""


class OtherPrompt(ValueError):
    """A server read a prompt otherwise than the policy does. The message says how."""


@dataclass(slots=True)
class GenerationCounts:
    """What one call of `generate` did.

    `near_ties` counts greedy steps whose two best logits were closer than the arithmetic can tell apart (see
    `decoding.near_tie_margin`): only there may another batch, device or kernel pick another token.
    """

    rows: int = 0
    tokens: int = 0  # generated, end tokens included
    near_ties: int = 0
    images_encoded: int = 0  # distinct (image, view) per batch
    seconds: float = 0.0
    waited: float = 0.0  # seconds of these in which the model waited for images and prompts

    @property
    def wait_share(self) -> float:
        """Share of the time in which the model waited for its inputs, 0 to 1."""
        return self.waited / self.seconds if self.seconds else 0.0

    def add(self, other: GenerationCounts) -> None:
        """Count what another call did too."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
