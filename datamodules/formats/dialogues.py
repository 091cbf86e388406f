"""Dialogues of supervised data in LLaVA's form, with any number of images and a system text, as a sample's opening and turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from datamodules.formats.listed import Unusable
from datamodules.formats.preference.base import Said, messages_with, placed, tidy
from datamodules.formats.preference.messages import answer_text, messages_of
from parallax.records import ImageRef, Message, Turn


def dialogue_of(
    said: object, images: Sequence[Any], image_of: Callable[[Any], ImageRef]
) -> tuple[tuple[Message, ...], tuple[Turn, ...]]:
    """What opens a dialogue, and its turns of question and answer. Raises `Unusable`.

    Args:
        said: the messages as they stand in the row.
        images: what the row names its images by; those that no message shows go before the first question.
        image_of: finds one of them.
    """
    messages: list[Said] = [tidy(message) for message in messages_of(said, "conversations")]
    opens = 1 if messages and messages[0].role == "system" else 0
    talk = messages[opens:]
    if not talk or any(m.role != ("user", "assistant")[place % 2] for place, m in enumerate(talk)):
        raise Unusable("bad_turns", f"its messages are by {', '.join(m.role for m in messages) or 'nobody'}; "
                       "user and assistant have to take turns")  # fmt: skip
    shown = placed(messages, tuple(images))
    made = messages_with(messages, [image_of(image) for image in shown])
    turns = []
    for place in range(opens, len(made), 2):
        asked = made[place]
        if not asked.text.strip():
            raise Unusable("empty_question", "it has no question, or an empty one")
        answer = answer_text(messages[place + 1]) if place + 1 < len(messages) else None
        turns.append(Turn(asked.text.strip(), answer, asked.parts))
    return made[:opens], tuple(turns)
