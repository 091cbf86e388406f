"""One row of a preference file, in each of the known formats, as (image, prompt, chosen, rejected…).

- `seva`: `{"question", "chosen", "reject", "image_id"}`
- `stic`: `{"image", "chosen": [user, assistant], "rejected": [user, assistant]}`
- `sima` (`csr`, `llava` are the same): `{"id", "image", "conversations": [human, gpt], "rejected_conversations": [human, gpt]}`
- `ms_swift`: `{"messages": [user, assistant], "rejected_response", "images"}`, or `rejected_messages`
- `llama_factory` (sharegpt, ranking): `{"conversations": [human], "chosen": {from, value}, "rejected": {…}, "images"}`
- `trl`: `prompt`, `chosen`, `rejected` and `image` or `images`; texts, or conversations with `role` and `content`; the prompt may
  also be the shared beginning of both conversations. `rejected` may be a list of K answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from datamodules.formats.listed import Unusable
from datamodules.formats.placeholders import count_placeholders, without_placeholder

END = re.compile(r"(?:\s*(?:</s>|<\|im_end\|>|<\|eot_id\|>|<\|endoftext\|>))+\s*$")
PARTS_AS_TEXT = re.compile(r'\[\s*\{\s*"(?:type|text)"\s*:')
TEMPLATED = re.compile(r"(?:^|\s)USER:\s*(.*?)\s*ASSISTANT:\s*$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ParsedPair:
    """What a row says. `image` is still as it stands in the file."""

    image: Any
    prompt: str
    chosen: str
    rejected: tuple[str, ...]


def detect(row: Mapping[str, Any]) -> str:
    """The format of a file by its first row. Raises ValueError with the keys that were seen."""
    keys = set(row)
    if {"pair_id", "image_digest", "chosen_token_ids"} <= keys:
        return "parallax"
    if "reject" in keys and "question" in keys:
        return "seva"
    if "rejected_conversations" in keys:
        return "sima"
    if "messages" in keys and keys & {"rejected_response", "rejected_messages"}:
        return "ms_swift"
    if {"conversations", "chosen", "rejected"} <= keys:
        return "llama_factory"
    if {"chosen", "rejected"} <= keys:
        return "stic" if "prompt" not in keys and ("image_corruption" in keys or "hallu_prompt" in keys) else "trl"
    raise ValueError(
        f"its first row has the keys {', '.join(sorted(map(str, keys)))}, which is none of the known formats "
        f"({', '.join(FORMATS)}); name it with data.format"
    )


def parse_seva(row: Mapping[str, Any]) -> ParsedPair:
    image = _text(row, "image_id")
    return _pair(image, _text(row, "question"), _text(row, "chosen"), [_text(row, "reject")])


def parse_sima(row: Mapping[str, Any]) -> ParsedPair:
    better, worse = _llava_turns(row, "conversations"), _llava_turns(row, "rejected_conversations")
    if better[0] != worse[0]:
        raise Unusable("different_prompts", "chosen and rejected conversation ask different questions")
    prompt = better[0]
    if templated := TEMPLATED.search(prompt):  # CSR stores the question inside its chat template
        prompt = templated.group(1)
    return _pair(row.get("image"), prompt, better[1], [worse[1]])


def parse_messages(row: Mapping[str, Any]) -> ParsedPair:
    """TRL's format, and STIC's, which is TRL's without a prompt of its own."""
    image = next((row[key] for key in ("images", "image") if row.get(key) is not None), None)
    prompt, chosen, rejected = row.get("prompt"), row.get("chosen"), row.get("rejected")
    if isinstance(chosen, str):
        if not isinstance(prompt, str):
            raise Unusable("bad_row", "chosen is a text, so prompt must be one too")
        return _pair(image, prompt, chosen, _texts(rejected))
    conversations = (
        rejected if isinstance(rejected, list) and rejected and isinstance(rejected[0], list) else [rejected]
    )
    asked, better = _conversation(prompt, chosen)
    others = [_conversation(prompt, other) for other in conversations]
    if any(question != asked for question, _ in others):
        raise Unusable("different_prompts", "chosen and rejected conversation ask different questions")
    return _pair(image, asked, better, [answer for _, answer in others])


def parse_ms_swift(row: Mapping[str, Any]) -> ParsedPair:
    asked, better = _conversation(None, row.get("messages"))
    if row.get("rejected_messages") is not None:
        other, worse = _conversation(None, row["rejected_messages"])
        if other != asked:
            raise Unusable("different_prompts", "chosen and rejected conversation ask different questions")
    else:
        worse = _text(row, "rejected_response")
    return _pair(row.get("images", row.get("image")), asked, better, [worse])


def parse_llama_factory(row: Mapping[str, Any]) -> ParsedPair:
    said = row.get("conversations")
    if not isinstance(said, list) or len(said) != 1 or not isinstance(said[0], dict):
        raise Unusable(
            "several_turns", "its conversations are not one question; one user turn and one answer are supported"
        )
    answers = [row.get(side) for side in ("chosen", "rejected")]
    if not all(isinstance(answer, dict) for answer in answers):
        raise Unusable("bad_row", "its chosen and rejected are no messages; {from, value} is needed")
    better, worse = (_text(answer, "value") for answer in answers)  # type: ignore[arg-type]
    return _pair(row.get("images", row.get("image")), _text(said[0], "value"), better, [worse])


PARSERS: dict[str, Callable[[Mapping[str, Any]], ParsedPair]] = {
    "seva": parse_seva,
    "stic": parse_messages,
    "sima": parse_sima,
    "csr": parse_sima,
    "llava": parse_sima,
    "ms_swift": parse_ms_swift,
    "llama_factory": parse_llama_factory,
    "trl": parse_messages,
}
FORMATS = (*PARSERS, "parallax")


def _pair(image: Any, prompt: str, chosen: str, rejected: list[str]) -> ParsedPair:
    if (images := count_placeholders(prompt)) > 1:
        raise Unusable("several_images", f"its prompt asks for {images} images; exactly one is supported")
    prompt = without_placeholder(prompt).strip()
    if not prompt:
        raise Unusable("empty_question", "its prompt is empty")
    answers = [END.sub("", text).strip() for text in (chosen, *rejected)]
    if len(answers) < 2:
        raise Unusable("bad_row", "it has no rejected answer")
    return ParsedPair(image, prompt, answers[0], tuple(answers[1:]))


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise Unusable(
            "bad_row", f"its {key} is {'missing' if value is None else type(value).__name__}; a text is needed"
        )
    return value


def _texts(value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise Unusable("bad_row", "its rejected is neither a text nor a list of texts")
    return texts


def _llava_turns(row: Mapping[str, Any], key: str) -> tuple[str, str]:
    said = row.get(key)
    if not isinstance(said, list) or len(said) != 2 or not all(isinstance(m, dict) for m in said):
        raise Unusable("bad_row", f"its {key} is not one question and one answer")
    return _text(said[0], "value"), _text(said[1], "value")


def _conversation(prompt: Any, answer: Any) -> tuple[str, str]:
    """The one question and the one answer of TRL messages."""
    messages = [*_messages(prompt), *_messages(answer)]
    if [role for role, _ in messages] != ["user", "assistant"]:
        roles = ", ".join(role for role, _ in messages) or "nobody"
        raise Unusable("several_turns", f"its conversation is by {roles}; one user turn and one answer are supported")
    return messages[0][1], messages[1][1]


def _messages(value: Any) -> list[tuple[str, str]]:
    if value is None:
        return []
    if isinstance(value, str):
        return [("user", value)]
    if not isinstance(value, list) or not all(isinstance(m, dict) for m in value):
        raise Unusable("bad_row", "its conversation is no list of messages with role and content")
    return [(str(m.get("role")), _content(m.get("content"))) for m in value]


def _content(content: Any) -> str:
    if isinstance(content, str) and PARTS_AS_TEXT.match(content):  # `datasets` stores mixed contents as JSON text
        with suppress(ValueError):
            content = json.loads(content)
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise Unusable("bad_row", "a message has a content that is neither a text nor a list of parts")
    if sum(part.get("type") == "image" for part in content) > 1:
        raise Unusable("several_images", "a message shows several images; exactly one is supported")
    return "".join(str(part.get("text") or "") for part in content if part.get("type") != "image")
