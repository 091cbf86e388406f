"""What is shown and said before an answer: messages of texts and pictures. One picture with one question is the plain case.

In the plain case everything that is stored or hashed is what the picture and the question alone make, so that answers, pairs and
log-probs are found again whether a sample came as a conversation or not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from parallax.records.fingerprint import fingerprint

if TYPE_CHECKING:
    from parallax.records.sample import ImageRef

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message: texts and pictures in the order in which they are shown."""

    role: Role
    parts: tuple[str | ImageRef, ...]

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> tuple[ImageRef, ...]:
        return tuple(part for part in self.parts if not isinstance(part, str))


@dataclass(frozen=True, slots=True)
class Conversation:
    """All messages before an answer: perhaps a system text, then user and assistant by turns, the user last.

    Raises ValueError for another order, or where no picture is shown.
    """

    messages: tuple[Message, ...]

    def __post_init__(self) -> None:
        roles = [message.role for message in self.messages]
        talk = roles[1:] if roles[:1] == ["system"] else roles
        if len(talk) % 2 == 0 or any(role != ("user", "assistant")[place % 2] for place, role in enumerate(talk)):
            raise ValueError(
                f"a conversation by {', '.join(roles) or 'nobody'} cannot be answered; the user has to be last"
            )
        if not self.images:
            raise ValueError("a conversation shows one image at least; this one shows none")

    @classmethod
    def plain(cls, image: ImageRef, question: str) -> Conversation:
        """One picture and one question."""
        return cls((Message("user", (image, question)),))

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """All pictures, in order."""
        return tuple(image for message in self.messages for image in message.images)

    @property
    def question(self) -> str:
        """The text of the last message."""
        return self.messages[-1].text

    @property
    def is_plain(self) -> bool:
        """Whether it is one picture before one question and nothing else."""
        if len(self.messages) != 1 or len(self.messages[0].parts) != 2:
            return False
        first, second = self.messages[0].parts
        return not isinstance(first, str) and isinstance(second, str)

    def as_messages(self) -> tuple[Message, ...]:
        """The messages, or none in the plain case: what a record keeps beside its image and its question."""
        return () if self.is_plain else self.messages

    def written(self) -> str:
        """All but the pictures as one text that names it: the question in the plain case, else JSON."""
        if self.is_plain:
            return self.question
        return json.dumps(told(self.messages), ensure_ascii=False, separators=(",", ":"))

    def image_digest(self) -> str:
        """Names the pictures: the digest of the only one, or one over all of theirs. Raises `BadImage`."""
        digests = [image.digest() for image in self.images]
        return digests[0] if len(digests) == 1 else fingerprint(digests)

    def readable(self) -> str:
        """As a page shows it: the question, or every message with its speaker and its pictures as `[image 1]`."""
        if self.is_plain:
            return self.question
        lines, number = [], 0
        for message in self.messages:
            parts = []
            for part in message.parts:
                number += not isinstance(part, str)
                parts.append(part if isinstance(part, str) else f"[image {number}]")
            lines.append(f"{message.role}: {''.join(parts)}")
        return "\n".join(lines)

    def describe(self) -> str:
        """The names of its pictures, for logs."""
        return ", ".join(image.describe() for image in self.images)

    def with_question(self, question: str) -> Conversation:
        """Asked something else about the same: the last message's pictures stay before the new text."""
        last = self.messages[-1]
        return Conversation((*self.messages[:-1], replace(last, parts=(*last.images, question))))

    def showing(self, places: Sequence[int]) -> tuple[Message, ...]:
        """The messages with those of the pictures that have these places, and without the others."""
        number, kept = 0, []
        for message in self.messages:
            parts = []
            for part in message.parts:
                if isinstance(part, str) or number in places:
                    parts.append(part)
                number += not isinstance(part, str)
            kept.append(Message(message.role, tuple(parts)))
        return tuple(kept)

    def with_images(self, images: Sequence[ImageRef]) -> Conversation:
        """The same messages beside other pictures, as many as there were. Raises ValueError for another number."""
        if len(images) != len(self.images):
            raise ValueError(f"a conversation about {len(self.images)} images cannot be shown {len(images)}")
        return Conversation(filled(told(self.messages), images))


def told(messages: Sequence[Message]) -> list[Any]:
    """Messages as plain data, `[role, [text, null for a picture, …]]` each."""
    return [[m.role, [part if isinstance(part, str) else None for part in m.parts]] for m in messages]


def filled(written: Sequence[Any], images: Sequence[ImageRef]) -> tuple[Message, ...]:
    """The inverse of `told`, with the pictures in order."""
    left = iter(images)
    return tuple(
        Message(role, tuple(next(left) if part is None else str(part) for part in parts)) for role, parts in written
    )
