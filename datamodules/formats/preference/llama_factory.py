"""LLaMA-Factory's ranking data.

- sharegpt: `{"conversations" or "messages": [… human], "chosen": {from, value}, "rejected": {…}, "images"}`, with a `system` text
  beside them or as their first message
- alpaca: `{"instruction", "input", "chosen", "rejected", "images"}`, with `system` and `history` (a list of [question, answer])

Columns and tags that `dataset_info.json` renames are renamed back before a row comes here.
"""

from __future__ import annotations

from collections.abc import Mapping

from datamodules.formats.listed import Unusable, kind_of
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
from datamodules.formats.preference.messages import answer_of, answers_of, messages_of


def read_sharegpt(row: Row, _: Choices) -> list[RawPair]:
    said = messages_of(row.get("conversations", row.get("messages")), "conversations")
    rejected = row.get("rejected")
    answers = rejected if isinstance(rejected, list) and len(rejected) > 1 else [rejected]
    worse = [answer_of(answer, "rejected") for answer in answers]
    return [make_pair(with_system(row, said), images_in(row), answer_of(row.get("chosen"), "chosen"), worse, row=row)]


def read_alpaca(row: Row, _: Choices) -> list[RawPair]:
    said: list[Said] = []
    history = row.get("history") or []
    if not isinstance(history, list) or not all(isinstance(turn, list | tuple) and len(turn) == 2 for turn in history):
        raise Unusable("bad_row", "its history is no list of [question, answer]")
    for question, answer in history:
        said += [Said("user", parts_of(str(question))), Said("assistant", parts_of(str(answer)))]
    asked = "\n".join(text for text in (text_in(row, "instruction"), row.get("input") or "") if text)
    said.append(Said("user", parts_of(asked)))
    return [
        make_pair(
            with_system(row, said),
            images_in(row),
            answer_of(row.get("chosen"), "chosen"),
            answers_of(row.get("rejected"), "rejected"),
            row=row,
        )
    ]


def with_system(row: Row, said: list[Said]) -> list[Said]:
    """The messages after the row's own system text, where it has one. Raises `Unusable` for two different ones."""
    system = row.get("system") or ""
    if not isinstance(system, str):
        raise Unusable("bad_row", f"its system is {kind_of(system)}; a text is needed")
    if not system.strip():
        return said
    if said and said[0].role == "system":
        if said[0].text.strip() == system.strip():
            return said
        raise Unusable("bad_turns", "it has one system text beside its messages and another among them")
    return [Said("system", (system,)), *said]


def _is_sharegpt(row: Row) -> bool:
    talk = "conversations" in row or "messages" in row
    return talk and {"chosen", "rejected"} <= row.keys() and isinstance(row["chosen"], Mapping | list | str)


FORMATS = (
    Format(("llama_factory", "sharegpt"), _is_sharegpt, read_sharegpt, weight=3),
    Format(("alpaca",), lambda row: {"instruction", "chosen", "rejected"} <= row.keys(), read_alpaca, weight=3),
)
