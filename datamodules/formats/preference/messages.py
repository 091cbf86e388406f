"""Messages as programs write them, read into one form: `role` and `content`, or LLaVA's `from` and `value`; contents as a text
with `<image>`, as a list of parts, or as such a list in JSON text (what `datasets` makes of mixed contents)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from datamodules.formats.listed import Unusable, kind_of
from datamodules.formats.preference.base import Part, Picture, Role, Said, parts_of

ROLES: dict[str, Role] = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
    "model": "assistant",
}  # fmt: skip
PARTS_AS_TEXT = re.compile(r'\s*\[\s*\{\s*"(?:type|text)"\s*:')
MESSAGES_AS_TEXT = re.compile(r'\s*\[\s*\{\s*"(?:role|from|content|value)"\s*:')
SHOWN = ("image", "image_url")  # types of parts that are pictures


def messages_of(value: object, name: str = "conversation") -> list[Said]:
    """Messages, whoever wrote them. A text is the user's; one message may stand without a list. Raises `Unusable`."""
    if isinstance(value, str) and MESSAGES_AS_TEXT.match(value):
        with suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, str):
        return [Said("user", parts_of(value))]
    if isinstance(value, Mapping):
        value = value.get("messages", [value])
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return messages_of(value[0], name)
    if not isinstance(value, Sequence) or not all(isinstance(message, Mapping) for message in value):
        raise Unusable(
            "bad_row", f"its {name} is {kind_of(value)}; a text, or messages with role and content, are needed"
        )
    return [_message(message) for message in value]


def answer_of(value: object, name: str) -> str:
    """An answer: a text, a message, or a list that ends with one. Raises `Unusable`."""
    if isinstance(value, str) and not MESSAGES_AS_TEXT.match(value):
        return value
    said = messages_of(value, name)
    if len(said) != 1 or said[0].role != "assistant":
        roles = ", ".join(message.role for message in said) or "nobody"
        raise Unusable("bad_turns", f"its {name} is by {roles}; one answer of the assistant is needed")
    return answer_text(said[0])


def answers_of(value: object, name: str) -> list[str]:
    """One answer or several: texts in a list are several, messages in a list are one. Raises `Unusable`."""
    if isinstance(value, list) and not value:
        raise Unusable("bad_row", f"its {name} is an empty list; an answer is needed")
    answers = value if isinstance(value, list) and not isinstance(value[0], Mapping) else [value]
    return [answer_of(one, name) for one in answers]


def split_answer(value: object, name: str) -> tuple[list[Said], str]:
    """A conversation as what comes before its last answer, and that answer. Raises `Unusable`."""
    said = messages_of(value, name)
    if len(said) < 2 or said[-1].role != "assistant":
        roles = ", ".join(message.role for message in said) or "nobody"
        raise Unusable("bad_row", f"its {name} is by {roles}; a question and an answer are needed")
    return said[:-1], answer_text(said[-1])


def answer_text(message: Said) -> str:
    """The text of an answer. Raises `Unusable` for one that shows a picture."""
    if message.pictures:
        raise Unusable("image_in_answer", "an answer of it holds an image, where none can stand")
    return message.text


def same_question(better: list[Said], worse: list[Said]) -> None:
    """Raises `Unusable` unless both answers follow the same messages."""
    if [(m.role, m.text.strip()) for m in better] != [(m.role, m.text.strip()) for m in worse]:
        raise Unusable("different_prompts", "chosen and rejected conversation ask different questions")


def _message(message: Mapping[str, Any]) -> Said:
    given = message.get("role", message.get("from"))
    role = ROLES.get(str(given).strip().lower())
    if given is None:
        raise Unusable("unknown_role", "a message of it does not say by `role` or `from` whose it is")
    if role is None:
        known = ", ".join(dict.fromkeys(ROLES))
        raise Unusable("unknown_role", f"a message of it is from {given!r}; known are {known}")
    return Said(role, _content(message.get("content", message.get("value"))))


def _content(content: object) -> tuple[Part, ...]:
    if isinstance(content, str) and PARTS_AS_TEXT.match(content):
        with suppress(ValueError):
            content = json.loads(content)
    if isinstance(content, str):
        return parts_of(content)
    if not isinstance(content, list) or not all(isinstance(part, Mapping | str) for part in content):
        raise Unusable(
            "bad_row", f"the content of a message is {kind_of(content)}; a text or a list of parts is needed"
        )
    parts: list[Part] = []
    for part in content:
        if isinstance(part, str):
            parts += parts_of(part)
            continue
        kind = part.get("type")
        if kind in SHOWN:
            parts.append(Picture(_shown(part)))
        elif kind in ("text", None):
            parts.append(str(part.get("text") or ""))
        else:
            raise Unusable("other_media", f"a message of it shows a {kind}; texts and images can be read")
    return tuple(parts)


def _shown(part: Mapping[str, Any]) -> Any:
    """What a part names its picture by, or None where it only says that there is one."""
    value = next((part[key] for key in ("image", "image_url", "url", "path", "base64") if part.get(key)), None)
    return value.get("url") if isinstance(value, Mapping) and "url" in value else value
