"""Samples: an image with its questions, what is known about it, and where it came from.

An image is never held in memory by a sample. It is an `ImageRef`: something that can name its content and load it
when it is needed, so that a million samples cost a few hundred megabytes and a worker process can carry one cheaply.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, runtime_checkable

from parallax.records.conversation import Conversation, Message

if TYPE_CHECKING:
    from PIL import Image


ASKED = "/asked/"  # in the id of a sample whose question was written for it: between its origin's id and a number


@runtime_checkable
class ImageRef(Protocol):
    """A handle to one image. Implementations are small, picklable and hashable by value.

    One that can tell its width and height without decoding may have a method `size()`; see `images.image_size`.
    """

    def load(self) -> Image.Image:
        """Decode the image to upright RGB. Raises `BadImage` with a reason when it cannot."""
        ...

    def digest(self) -> str:
        """Hex SHA-256 of the image's content (file bytes, or the recipe that draws it). Cheap to call twice."""
        ...

    def describe(self) -> str:
        """A short human name for logs: a path relative to the image root, or `shapes:train:12`."""
        ...


_KINDS: dict[type[Any], bool] = {}  # whether a type is one of images


def is_image(value: object) -> TypeGuard[ImageRef]:
    """Whether a value is an `ImageRef`; asked of its type once, for rows by the million."""
    kind = type(value)
    if kind not in _KINDS:
        _KINDS[kind] = isinstance(value, ImageRef)
    return _KINDS[kind]


class BadImage(Exception):
    """An image that cannot be used. The message is one sentence: which image, what is wrong, what to do."""


class RefusedImage(BadImage):
    """An image that a model's processor does not take. The message goes on after the image's name (see `naming`)."""


@contextmanager
def naming(image: ImageRef | Conversation) -> Iterator[None]:
    """Inside, an image that the processor refuses is named: `BadImage` in place of `RefusedImage`."""
    try:
        yield
    except RefusedImage as refused:
        raise BadImage(f"image {image.describe()!r} {refused}") from refused


@dataclass(frozen=True, slots=True)
class Turn:
    """One question about the image and, where the data has one, its ground-truth answer.

    `parts` are the question's texts and pictures in order, where there is more than the sample's image before its first question.
    """

    question: str
    answer: str | None = None
    parts: tuple[str | ImageRef, ...] = ()

    def asking(self, question: str) -> Turn:
        """Another question about the same pictures, which then come before it."""
        shown = tuple(part for part in self.parts if not isinstance(part, str))
        return replace(self, question=question, parts=(*shown, question) if shown else ())


@dataclass(frozen=True, slots=True)
class Sample:
    """One image or several, the turns about them and their annotations.

    `id` is stable over runs and unique within `source`: seeds, caches and pairs hang on it, never on the order. `image` is the
    first image; further ones stand in `opening` and in the turns' `parts`.
    """

    id: str
    source: str
    image: ImageRef
    turns: tuple[Turn, ...]
    kind: str = ""  # what sort of question this is ("describe", "colour", …); metrics are reported per kind
    objects: tuple[str, ...] | None = (
        None  # every object truly in the image, singular, lower case; None = not annotated
    )
    attributes: Mapping[str, Any] = field(
        default_factory=dict
    )  # anything else the source knows (scene recipe, caption id)
    opening: tuple[Message, ...] = ()  # what was said before the first turn: a system text, earlier turns

    def __post_init__(self) -> None:
        if not self.turns:
            raise ValueError(f"sample {self.id!r} of {self.source!r} has no turn; give it at least one question")

    @property
    def question(self) -> str:
        """The first turn's question: what preference data is built on."""
        return self.turns[0].question

    @property
    def answer(self) -> str | None:
        """The first turn's ground-truth answer, if the data has one."""
        return self.turns[0].answer

    def conversation(self, question: str | None = None) -> Conversation:
        """All that is shown and said before the first turn's answer; with `question` in place of the sample's own."""
        whole = Conversation((*self.opening, self.asked(0)))
        return whole if question is None or question == self.question else whole.with_question(question)

    def asked(self, turn: int) -> Message:
        """The user's message of a turn, 0-based."""
        asked = self.turns[turn]
        if asked.parts:
            return Message("user", asked.parts)
        shown = turn == 0 and not any(message.images for message in self.opening)
        return Message("user", (self.image, asked.question) if shown else (asked.question,))

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """All images, in the order in which they are shown."""
        later = (message for turn in range(1, len(self.turns)) for message in [self.asked(turn)])
        return (*self.conversation().images, *(image for message in later for image in message.images))
