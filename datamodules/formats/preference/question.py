"""A question with its answers under keys of their own.

- `rlaif_v` (openbmb/RLAIF-V-Dataset) and `mmpr` (OpenGVLab/MMPR): `question`, `chosen`, `rejected` and `image`
- `seva`: `{"question", "chosen", "reject", "image_id"}`; `sena`: the same with `image`
- `rlhf_v` (openbmb/RLHF-V-Dataset): `image`, and `text`, a JSON text that holds question, chosen and rejected
- the same under the other names that people give them, as OpenAI's `input`, `preferred_output` and `non_preferred_output`
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from datamodules.formats.listed import Unusable
from datamodules.formats.preference.base import Choices, Format, RawPair, Row, images_in, make_pair
from datamodules.formats.preference.llama_factory import with_system
from datamodules.formats.preference.messages import answers_of, messages_of

QUESTION = ("question", "query", "instruction", "input", "prompt")
CHOSEN = (
    "chosen",
    "chosen_response",
    "chosen_answer",
    "preferred",
    "preferred_response",
    "preferred_output",
    "win",
    "winner",
)
REJECTED = (
    "rejected", "reject", "rejected_response", "rejected_answer", "dispreferred", "dispreferred_response",
    "non_preferred_output", "lose", "loser",
)  # fmt: skip


def read_question(row: Row, _: Choices) -> list[RawPair]:
    asked, better, worse = _first(row, QUESTION), _first(row, CHOSEN), _first(row, REJECTED)
    said = with_system(row, messages_of(row.get(asked), asked))
    chosen = answers_of(row.get(better), better)
    if len(chosen) > 1:
        raise Unusable("bad_row", f"its {better} holds {len(chosen)} answers; one is needed")
    own = {"uid": row.get("idx"), "data_source": row.get("origin_dataset"), **row}
    return [make_pair(said, images_in(row), chosen[0], answers_of(row.get(worse), worse), row=own)]


def _first(row: Row, keys: tuple[str, ...]) -> str:
    for key in keys:
        if key in row:
            return key
    return keys[0]


def read_json_text(row: Row, choices: Choices) -> list[RawPair]:
    inside = _object(row.get("text"))
    if inside is None:
        raise Unusable("unreadable_row", "its text is no JSON object with question, chosen and rejected")
    return read_question({**row, **inside}, choices)


def _object(text: object) -> Mapping[str, Any] | None:
    try:
        value = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, Mapping) else None


def _looks_like_json(value: object) -> bool:
    return isinstance(value, Mapping) or (
        isinstance(value, str) and value.lstrip().startswith("{") and '"chosen"' in value
    )


def _is_question(row: Row) -> bool:
    asked, better, worse = _first(row, QUESTION), _first(row, CHOSEN), _first(row, REJECTED)
    return asked in row and better in row and worse in row and (asked, better) != ("prompt", "chosen")


FORMATS = (
    Format(("rlaif_v", "mmpr", "question", "seva", "sena"), _is_question, read_question, weight=2),
    Format(
        ("rlhf_v",), lambda row: "chosen" not in row and _looks_like_json(row.get("text")), read_json_text, weight=2
    ),
)
