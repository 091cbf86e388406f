"""A question with its answers under keys of their own.

- `rlaif_v` (openbmb/RLAIF-V-Dataset) and `mmpr` (OpenGVLab/MMPR): `question`, `chosen`, `rejected` and `image`
- `seva`: `{"question", "chosen", "reject", "image_id"}`; `sena`: the same with `image`
- `rlhf_v` (openbmb/RLHF-V-Dataset): `image`, and `text`, a JSON text that holds question, chosen and rejected
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

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


def texts_in(row: Row, key: str) -> list[str]:
    """One text, or a list of them. Raises `Unusable`."""
    value = row.get(key)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise Unusable("bad_row", f"its {key} is neither a text nor a list of texts")
    return texts


def read_question(row: Row, _: Choices) -> list[RawPair]:
    rejected = "rejected" if "rejected" in row else "reject"
    said = [Said("user", parts_of(text_in(row, "question")))]
    if row.get("video"):
        raise Unusable("other_media", "it shows a video; texts and images can be read")
    images = images_in(row, "image", "images", "image_id", "image_path", "img_path")
    pair = make_pair(said, images, text_in(row, "chosen"), texts_in(row, rejected), row=row)
    if pair.id is None and row.get("idx") is not None:
        pair = replace(pair, id=row["idx"])
    source = row.get("origin_dataset")
    return [replace(pair, source=source) if pair.source is None and isinstance(source, str) and source else pair]


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


FORMATS = (
    Format(
        ("rlaif_v", "mmpr", "question"),
        lambda row: {"question", "chosen", "rejected"} <= row.keys() and "prompt" not in row,
        read_question,
        weight=3,
    ),
    Format(("seva", "sena"), lambda row: {"question", "reject"} <= row.keys(), read_question, weight=3),
    Format(
        ("rlhf_v",), lambda row: "chosen" not in row and _looks_like_json(row.get("text")), read_json_text, weight=2
    ),
)
