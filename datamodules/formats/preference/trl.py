"""TRL's vision preference format, and STIC's, which is TRL's without a prompt of its own.

`prompt`, `chosen`, `rejected` and `image` or `images`; texts, or conversations with `role` and `content`. The prompt may also be
the shared beginning of both conversations. `rejected` may be a list of K answers. HuggingFaceH4/rlaif-v_formatted and
trl-lib/rlaif-v are so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datamodules.formats.listed import Unusable
from datamodules.formats.preference.base import Choices, Format, RawPair, Row, Said, images_in, make_pair
from datamodules.formats.preference.messages import answer_text, answers_of, messages_of, same_question


def read_trl(row: Row, _: Choices) -> list[RawPair]:
    images = images_in(row)
    prompt, chosen, rejected = row.get("prompt"), row.get("chosen"), row.get("rejected")
    if isinstance(chosen, str) and not _is_conversation(chosen):
        return [make_pair(messages_of(prompt, "prompt"), images, chosen, answers_of(rejected, "rejected"), row=row)]
    asked, better = _conversation(prompt, chosen)
    several = isinstance(rejected, list) and bool(rejected) and not isinstance(rejected[0], Mapping)
    answers: list[Any] = list(rejected or ()) if several else [rejected]
    others = [_conversation(prompt, other) for other in answers]
    for question, _answer in others:
        same_question(asked, question)
    return [make_pair(asked, images, better, [answer for _, answer in others], row=row)]


def _is_conversation(text: str) -> bool:
    return text.lstrip().startswith('[{"role"')


def _conversation(prompt: object, answer: object) -> tuple[list[Said], str]:
    before = messages_of(prompt, "prompt") if prompt is not None else []
    said = [*before, *messages_of(answer, "answer")]
    if len(said) < 2 or said[-1].role != "assistant":
        roles = ", ".join(message.role for message in said) or "nobody"
        raise Unusable("bad_turns", f"its conversation is by {roles}; a question and an answer to it are needed")
    return said[:-1], answer_text(said[-1])


def _is_trl(row: Row) -> bool:
    if not {"chosen", "rejected"} <= row.keys():
        return False
    chosen = row["chosen"]
    return (
        row.get("prompt") is not None
        or isinstance(chosen, list)
        or (isinstance(chosen, str) and _is_conversation(chosen))
    )


FORMATS = (Format(("trl", "stic"), _is_trl, read_trl, weight=1),)
