"""ms-swift's: `messages` that end with the chosen answer, `images`, and at least one of

- `rejected_response`: a text, or a list of messages in place of all after the last question
- `rejected_messages`: a whole conversation, with `rejected_images`
- `rejected_images`: the same answer beside other images

`query`, `response`, `history` and `system` in place of `messages`, and `image` in place of `images`, are read too.
"""

from __future__ import annotations

from datamodules.formats.listed import Unusable
from datamodules.formats.preference.base import (
    Choices,
    Format,
    RawPair,
    Row,
    Said,
    images_in,
    make_pair,
    parts_of,
    text_in,
)
from datamodules.formats.preference.llama_factory import with_system
from datamodules.formats.preference.messages import answers_of, same_question, split_answer

MARKS = ("<bbox>", "<ref-object>")
REJECTED = ("rejected_response", "rejected_messages", "rejected_images")


def read_ms_swift(row: Row, _: Choices) -> list[RawPair]:
    asked, better = _chosen(row)
    if row.get("objects") and any(mark in text for mark in MARKS for text in (better, *(m.text for m in asked))):
        raise Unusable(
            "other_media", f"its texts hold {' or '.join(MARKS)}, which stand for its objects; write them out"
        )
    asked = with_system(row, asked)
    images, other_images = images_in(row), images_in(row, "rejected_images", "rejected_image")
    if row.get("rejected_messages") is not None:
        other, worse = split_answer(row["rejected_messages"], "rejected_messages")
        same_question(asked, with_system(row, other))
        answers = [worse]
    elif row.get("rejected_response") is not None:
        answers = answers_of(row["rejected_response"], "rejected_response")
    elif other_images:
        answers = [better]
    else:
        raise Unusable("bad_row", f"it has no {', '.join(REJECTED[:-1])} or {REJECTED[-1]}")
    if other_images == images:
        other_images = ()
    return [make_pair(asked, images, better, answers, other_images, row=row)]


def _chosen(row: Row) -> tuple[list[Said], str]:
    if row.get("messages") is not None:
        return split_answer(row["messages"], "messages")
    said: list[Said] = []
    for turn in row.get("history") or []:
        if not isinstance(turn, list | tuple) or len(turn) != 2:
            raise Unusable("bad_row", "its history is no list of [question, answer]")
        said += [Said("user", parts_of(str(turn[0]))), Said("assistant", parts_of(str(turn[1])))]
    return [*said, Said("user", parts_of(text_in(row, "query")))], text_in(row, "response")


def _is_ms_swift(row: Row) -> bool:
    talk = row.get("messages") is not None or {"query", "response"} <= row.keys()
    return talk and any(row.get(key) is not None for key in REJECTED)


FORMATS = (Format(("ms_swift", "swift"), _is_ms_swift, read_ms_swift, weight=4),)
