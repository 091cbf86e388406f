"""What a policy is asked to say and what it answered: plain, picklable values that no tensor is part of."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Sequence
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


PART = 16  # rows read by the model at a time

Batch = list[list[int]]  # parts of places in the list of requests


def plan_batches(requests: Sequence[GenerationRequest], images: Sequence[str], batch_size: int) -> list[Batch]:
    """Batches of at most `batch_size` requests, in parts of at most `PART`; every place once.

    Args:
        images: digest of each request's image.
        batch_size: 1 or more. Requests about one image are only torn apart when there are more of them than that.
    """
    groups: dict[str, list[int]] = {}
    for place, image in enumerate(images):
        groups.setdefault(image, []).append(place)

    def length(place: int) -> tuple[int, int, int]:
        return requests[place].decoding.max_new_tokens, len(requests[place].conversation.written()), place

    ordered = sorted(groups.values(), key=lambda group: (*max(length(place)[:2] for place in group), group[0]))
    sorted_groups = [sorted(group, key=lambda place: (look(requests[place]), length(place))) for group in ordered]
    batches = []
    for batch in _packed(sorted_groups, batch_size):
        batches.append([[place for piece in part for place in piece] for part in _packed(batch, min(PART, batch_size))])
    return batches


def look(request: GenerationRequest) -> str:
    """Two requests about one image with the same look show the model the same pixels."""
    view = request.view
    return json.dumps([view.name, dict(view.params), view.seed], sort_keys=True, default=str)


def looks_of(requests: Sequence[GenerationRequest], images: Sequence[str]) -> list[Hashable]:
    """What each request shows the model: its image's digest and its look."""
    return [(image, look(request)) for request, image in zip(requests, images, strict=True)]


def _packed(groups: Iterable[list[int]], size: int) -> list[list[list[int]]]:
    """Groups, in order, in bins of at most `size` items; a group larger than a bin is cut."""
    bins: list[list[list[int]]] = []
    room = 0
    for group in groups:
        for start in range(0, len(group), size):
            piece = group[start : start + size]
            if len(piece) > room:
                bins.append([])
                room = size
            bins[-1].append(piece)
            room -= len(piece)
    return bins
