"""What a format of preference files is: a way to recognise a row, and a way to read pairs out of it.

Readers know nothing of files and pictures: a picture is whatever the row names it by, and stands in a message as `PICTURE`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from datamodules.formats.listed import Unusable, kind_of
from datamodules.formats.placeholders import IMAGE
from parallax.records import ImageRef, Message
from parallax.records.sample import is_image

Row = Mapping[str, Any]
PLAIN = (str, int, float, list, dict)  # what is no handle, told without asking for its methods
Role = Literal["system", "user", "assistant"]

MOST_PAIRS = 2_016  # of one row, or of one question: those of 64 completions. Every two of more are quadratically many

END = re.compile(r"(?:\s*(?:</s>|<\|im_end\|>|<\|eot_id\|>|<\|endoftext\|>))+\s*$")


@dataclass(frozen=True, slots=True)
class Picture:
    """A place in a message where a picture is shown: the one that `value` names, or the next of the row's."""

    value: Any = None


PICTURE = Picture()
IMAGE_KEYS = (
    "images", "image", "image_path", "img_path", "img", "image_file", "image_name", "file_name", "image_url", "image_id",
)  # fmt: skip
OTHER_MEDIA = ("video", "videos", "audio", "audios")
Part = str | Picture


@dataclass(frozen=True, slots=True)
class Said:
    """One message: texts and pictures in order."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return tuple(part for part in self.parts if isinstance(part, Picture))


@dataclass(frozen=True, slots=True)
class RawPair:
    """What a row says. Pictures are still as they stand in the row.

    Args:
        messages: all before the answer; the last is the user's.
        images: one for each `PICTURE` in the messages, in order.
        rejected_images: what the rejected answer is to be seen beside, where that is something else.
        id, source, kind: what the row says of itself, where it does.
    """

    messages: tuple[Said, ...]
    images: tuple[Any, ...]
    chosen: str
    rejected: tuple[str, ...]
    rejected_images: tuple[Any, ...] = ()
    id: str | int | None = None
    source: str | None = None
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Choices:
    """What a user decides about files that leave a choice.

    Args:
        pairing: of completions with scores: `all` makes a pair of every two with different scores, `best_worst` of the best and
            the worst.
        min_margin: how much their scores have to differ, above 0.
        aspects: which ratings a score is the mean of; none for all that a completion has.
    """

    pairing: Literal["all", "best_worst"] = "all"
    min_margin: float = 0.0
    aspects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of file.

    Args:
        names: how it is called in `data.format`; the first is its own name, the others are aliases.
        recognise: whether a row is of this kind, by its keys and what they hold.
        read: the row's pairs. Raises `Unusable`.
        weight: the larger wins where several formats recognise a row: how much of the row the format asks for.
    """

    names: tuple[str, ...]
    recognise: Callable[[Row], bool]
    read: Callable[[Row, Choices], Sequence[RawPair]]
    weight: int = field(default=1, kw_only=True)


def make_pair(
    messages: Sequence[Said],
    images: Iterable[Any],
    chosen: str,
    rejected: Sequence[str],
    rejected_images: Iterable[Any] = (),
    *,
    row: Row,
) -> RawPair:
    """A pair under the rules that hold for all formats. Raises `Unusable`.

    Pictures that no message shows come before the first question. One picture and one question are in that form whatever
    place the picture had. End tokens at the end of answers are taken off.
    """
    if other := next((key for key in OTHER_MEDIA if row.get(key)), None):
        raise Unusable("other_media", f"it has {other}; texts and images can be read")
    said = joined([tidy(message) for message in messages])
    if not said or said[-1].role != "user":
        roles = ", ".join(message.role for message in said) or "nobody"
        raise Unusable("bad_turns", f"its messages before the answer are by {roles}; the last has to be the user's")
    _check_order(said)
    shown = placed(said, tuple(images))
    if not said[-1].text.strip():
        raise Unusable("empty_question", "its prompt is empty")
    if len(said) == 1 and len(shown) == 1:
        said = [Said("user", (PICTURE, without_gap(said[0])))]
    if not rejected:
        raise Unusable("bad_row", "it has no rejected answer")
    others = tuple(rejected_images)
    if others and len(others) != len(shown):
        raise Unusable(
            "image_count", f"it has {len(others)} rejected images for {len(shown)}; each needs one in its place"
        )
    answers = [END.sub("", text).strip() for text in (chosen, *rejected)]
    if any(IMAGE in answer for answer in answers):
        raise Unusable("image_in_answer", f"an answer of it holds {IMAGE}, where no image can stand")
    return RawPair(
        tuple(said), shown, answers[0], tuple(answers[1:]), others, _first(row, "id", "sample_id", "uid"),
        _source(row), str(row.get("kind") or ""),
    )  # fmt: skip


def check_number(pairs: int, what: str) -> None:
    """Raise `Unusable` where one row or question stands for so many pairs. what: whose they would be, in words."""
    if pairs > MOST_PAIRS:
        raise Unusable(
            "too_many_answers",
            f"{what} give {pairs:,} pairs, more than {MOST_PAIRS:,}; data.pairing=best_worst makes one of them",
        )


def joined(said: Sequence[Said]) -> list[Said]:
    """Messages of one speaker in a row as one, a line apart: templates know turns only."""
    whole: list[Said] = []
    for message in said:
        if whole and whole[-1].role == message.role and whole[-1].parts and message.parts:
            message = Said(message.role, (*whole.pop().parts, "\n", *message.parts))
        whole.append(message)
    return whole


def placed(said: list[Said], images: tuple[Any, ...]) -> tuple[Any, ...]:
    """The pictures in the order in which the messages show them; those that no message shows go before the first question."""
    asked = [picture for message in said for picture in message.pictures]
    if not images and not asked:
        raise Unusable("text_only", "it names no image")
    if not asked:
        first = next(place for place, message in enumerate(said) if message.role == "user")
        said[first] = Said("user", (*[PICTURE] * len(images), *said[first].parts))
        return images
    if all(picture.value is not None for picture in asked):
        return tuple(picture.value for picture in asked)
    if len(asked) != len(images):
        reason = "several_images" if len(asked) > len(images) == 1 else "no_image" if not images else "image_count"
        raise Unusable(
            reason, f"its messages show {len(asked)} images and it names {len(images)}; the two have to agree"
        )
    return images


def messages_with(said: Sequence[Said], images: Sequence[ImageRef]) -> tuple[Message, ...]:
    """The messages with their pictures, in order."""
    left = iter(images)
    return tuple(
        Message(message.role, tuple(part if isinstance(part, str) else next(left) for part in message.parts))
        for message in said
    )


def without_gap(message: Said) -> str:
    """The text of a message whose one picture is taken out: its line breaks at either end too, one space in the middle."""
    at = next(place for place, part in enumerate(message.parts) if isinstance(part, Picture))
    before, after = ("".join(map(str, parts)) for parts in (message.parts[:at], message.parts[at + 1 :]))
    if not before.strip() or not after.strip():
        return (before + after).strip()
    return " ".join((before.rstrip(" \t"), after.lstrip(" \t"))).strip()


def parts_of(text: str) -> tuple[Part, ...]:
    """A text with `<image>`, or `<img>path</img>`, in it as parts."""
    if "<im" not in text:
        return (text,) if text else ()
    pieces = re.split(rf"{IMAGE}|<img>([^<>\s]+)</img>", text)
    parts: list[Part] = [pieces[0]]
    for path, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        parts += [Picture(path), piece]
    return tuple(part for part in parts if part)


def text_in(row: Row, key: str) -> str:
    """The text of a key. Raises `Unusable` when it is missing or something else."""
    value = row.get(key)
    if not isinstance(value, str):
        raise Unusable("bad_row", f"its {key} is {kind_of(value)}; a text is needed")
    return value


def images_in(row: Row, *keys: str) -> tuple[Any, ...]:
    """The pictures under the first of the keys that holds something: a list, also as JSON text, or one.

    Without keys these are the usual ones; pictures that lie in the row itself, whatever they are called (a member of a shard has
    only its ending), stand in where there is nothing else, or only the name of a member.
    """
    value = next((row[key] for key in keys or IMAGE_KEYS if row.get(key)), None)
    if isinstance(value, str) and value.startswith("["):
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    listed = value if isinstance(value, list | tuple) else [value]
    found = tuple(item[0] if isinstance(item, list) and len(item) == 1 else item for item in listed if item is not None)
    if not keys and all(isinstance(item, str) for item in found):
        own = [item for item in row.values() if not isinstance(item, PLAIN) and is_image(item)]
        if not found or [item.rpartition("/")[2] for item in found] == [
            item.describe().rpartition("/")[2] for item in own
        ]:
            return tuple(own)
    return found


def named(pair: RawPair, suffix: str) -> RawPair:
    """The pair under an id of its own: a row that gives several needs several."""
    return pair if pair.id is None else replace(pair, id=f"{pair.id}/{suffix}")


def tidy(message: Said) -> Said:
    """Without white space at either end and around the pictures a message begins with."""
    parts: list[Part] = [part for part in message.parts if isinstance(part, Picture) or part.strip()]
    for place, part in enumerate(parts):
        if isinstance(part, str):
            parts[place] = part.lstrip()
            break
    if parts and isinstance(last := parts[-1], str):
        parts[-1] = last.rstrip()
    return Said(message.role, tuple(parts))


def _check_order(said: Sequence[Said]) -> None:
    """A system text first if there is one, then user and assistant by turns."""
    talk = said[1:] if said[0].role == "system" else said
    for place, message in enumerate(talk):
        if message.role != ("user", "assistant")[place % 2]:
            roles = ", ".join(message.role for message in said)
            raise Unusable("bad_turns", f"its messages are by {roles}; user and assistant have to take turns")
        if message.role == "assistant" and message.pictures:
            raise Unusable("image_in_answer", f"an earlier answer of it holds {IMAGE}, where no image can stand")
        if not message.parts:
            raise Unusable(
                "empty_question" if message.role == "user" else "bad_turns", f"message {place + 1} of it is empty"
            )
    if said[0].role == "system" and said[0].pictures:
        raise Unusable("bad_turns", "its system text shows an image; images stand in questions")


def _first(row: Row, *keys: str) -> str | int | None:
    return next((row[key] for key in keys if row.get(key) is not None), None)


def _source(row: Row) -> str | None:
    told = row.get("data_source")
    return told if isinstance(told, str) and told else None
