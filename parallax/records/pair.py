"""Preference pairs: one prompt, one chosen response and K rejected ones, with where each came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parallax.records.conversation import Conversation, Message
from parallax.records.fingerprint import fingerprint
from parallax.records.sample import ImageRef


@dataclass(frozen=True, slots=True)
class Response:
    """A response as it is trained on. `token_ids` include the end token unless generation was cut short.

    `token_ids` is None for responses that came as text (a preference file); the policy's tokenizer then makes them.
    """

    text: str
    token_ids: tuple[int, ...] | None = None
    provenance: Mapping[str, Any] = field(
        default_factory=dict
    )  # plain data: candidate key, view, decoding, prompt asked
    score: float | None = None


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Chosen first, then K rejected. `prompt` is the user text trained on, without the image placeholder.

    A pair that is more than one image and one question holds the `messages` before the answer; `image` and `prompt` are then the
    first image and the last question. `rejected_images`, as many as there are images, are those beside which the chosen answer is
    to be less likely; without a rejected text of its own such a pair has the chosen text in its place.
    """

    sample_id: str
    source: str
    image: ImageRef
    prompt: str
    chosen: Response
    rejected: tuple[Response, ...]
    kind: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    rejected_images: tuple[ImageRef, ...] = ()

    def __post_init__(self) -> None:
        if not self.rejected:
            raise ValueError(f"pair of sample {self.sample_id!r} has no rejected response; a pair needs at least one")
        if self.rejected_images and len(self.rejected_images) != len(self.images):
            raise ValueError(
                f"pair of sample {self.sample_id!r} has {len(self.rejected_images)} rejected images for {len(self.images)}; "
                "each image needs one in its place"
            )

    @property
    def conversation(self) -> Conversation:
        """All that is shown and said before the answer."""
        return Conversation(self.messages) if self.messages else Conversation.plain(self.image, self.prompt)

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """All images before the answer, in order."""
        return self.conversation.images if self.messages else (self.image,)

    @property
    def compares_images(self) -> bool:
        """Whether the images alone make the difference: the rejected answer is the chosen one beside others."""
        return bool(self.rejected_images) and [r.text for r in self.rejected] == [self.chosen.text]

    @property
    def responses(self) -> tuple[Response, ...]:
        """Shape: (1 + K,), chosen first."""
        return (self.chosen, *self.rejected)

    @property
    def id(self) -> str:
        """Content address of the pair: image, prompt and all responses. Reference log-probs hang on it."""
        asked = self.conversation
        content = {
            "image": asked.image_digest(),
            "prompt": asked.written(),
            "responses": [list(r.token_ids) if r.token_ids is not None else r.text for r in self.responses],
        }
        if self.rejected_images:
            content["rejected_images"] = [image.digest() for image in self.rejected_images]
        return fingerprint(content)


@dataclass(frozen=True, slots=True)
class Dropped:
    """A sample that gave no pair, and why. `reason` is one of a few short names that are counted and shown."""

    sample_id: str
    source: str
    reason: str
    detail: str = ""
