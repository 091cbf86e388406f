"""KTO's rows, one answer with a verdict each: `completion` (or an answer that ends `messages`) and `label` or `kto_tag`.

Such rows name no second answer. Those that ask the same about the same pictures are put together into pairs once the file has
been read; what has no counterpart is set aside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

from datamodules.formats.listed import Unusable
from datamodules.formats.preference.base import (
    Choices,
    Format,
    RawPair,
    Row,
    Said,
    check_number,
    images_in,
    make_pair,
    named,
)
from datamodules.formats.preference.messages import answer_of, messages_of, split_answer
from parallax.records.fingerprint import bytes_digest
from parallax.records.sample import is_image

VERDICT = ("label", "kto_tag")
TALK = ("messages", "conversations")
ALONE = "it is one answer with a label (KTO's form) and no row of the file has {other} answer to the same question and images"


@dataclass
class _Question:
    messages: list[Said]
    images: tuple[object, ...]
    row: Row
    place: int
    good: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)


class Verdicts:
    """Collects rows of this form; `pairs` puts them together."""

    def __init__(self) -> None:
        self._asked: dict[str, _Question] = {}

    def add(self, row: Row, place: int) -> None:
        """Keep a row. Raises `Unusable`, and `BadImage` for a picture that cannot be read."""
        messages, answer = _read(row)
        images = images_in(row)
        shown = [image.digest() if is_image(image) else image for image in images]  # a picture may be stored row by row
        key = bytes_digest(repr((messages, shown)).encode())
        known = self._asked.setdefault(key, _Question(messages, images, row, place))
        (known.good if _verdict(row) else known.bad).append(answer)

    def pairs(self, choices: Choices) -> Iterator[tuple[int, list[RawPair] | Unusable]]:
        """The place of the first row about each question, with all its pairs (`best_worst`: one), or why there are none."""
        for asked in self._asked.values():
            if not asked.good or not asked.bad:
                other = "a good" if asked.bad else "a bad"
                yield asked.place, Unusable("unpaired", ALONE.format(other=other))
                continue
            one = choices.pairing == "best_worst"
            sides = [(asked.good[0], asked.bad[0])] if one else product(asked.good, asked.bad)
            try:
                if not one:
                    check_number(len(asked.good) * len(asked.bad), "the good and the bad answers to its question")
                made = [make_pair(asked.messages, asked.images, good, [bad], row=asked.row) for good, bad in sides]
                yield asked.place, [named(pair, str(number)) for number, pair in enumerate(made, start=1)]
            except Unusable as unusable:
                yield asked.place, unusable


def is_verdict(row: Row) -> bool:
    """Whether a row is one answer with a verdict."""
    said = "completion" in row or any(isinstance(row.get(key), list) for key in TALK)
    return said and any(isinstance(row.get(key), bool) for key in VERDICT) and "rejected_response" not in row


def _verdict(row: Row) -> bool:
    return next(row[key] for key in VERDICT if isinstance(row.get(key), bool))


def _read(row: Row) -> tuple[list[Said], str]:
    if "completion" in row:
        return messages_of(row.get("prompt", row.get("question")), "prompt"), answer_of(row["completion"], "completion")
    key = next(key for key in TALK if key in row)
    return split_answer(row[key], key)


def _alone(row: Row, _: Choices) -> list[RawPair]:
    raise Unusable("unpaired", ALONE.format(other="another"))


FORMATS = (Format(("kto",), is_verdict, _alone, weight=5),)
