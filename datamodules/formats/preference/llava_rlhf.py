"""LLaVA-RLHF's human preferences (zhiqings/LLaVA-Human-Preference-10K): `image`, `conversations`, `output_1`, `output_2` and
`preference`, 1 or 2. The last answer of `conversations` is a slot that the outputs stand in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from datamodules.formats.listed import Unusable
from datamodules.formats.preference.base import Choices, Format, RawPair, Row, images_in, make_pair, text_in
from datamodules.formats.preference.messages import messages_of


def read_llava_rlhf(row: Row, _: Choices) -> list[RawPair]:
    said = row.get("conversations")
    if isinstance(said, list) and len(said) == 1 and isinstance(said[0], list):
        said = said[0]
    asked = messages_of(said, "conversations")
    if asked and asked[-1].role == "assistant":
        asked = asked[:-1]
    answers = [_output(row, f"output_{number}") for number in (1, 2)]
    preferred = row.get("preference")
    if isinstance(preferred, bool) or str(preferred).removesuffix(".0") not in ("1", "2"):
        raise Unusable("no_preference", f"its preference is {preferred!r}; 1 or 2 says which output is better")
    better, worse = answers if str(preferred)[0] == "1" else reversed(answers)
    pair = make_pair(asked, images_in(row), better, [worse], row=row)
    return [replace(pair, kind="hallucination") if row.get("hallucination") is True else pair]


def _output(row: Row, key: str) -> str:
    """The text of an output, whichever model it says it is from."""
    value = row.get(key)
    return text_in({key: value.get("value") if isinstance(value, Mapping) else value}, key)


FORMATS = (
    Format(
        ("llava_rlhf",), lambda row: {"output_1", "output_2", "preference"} <= row.keys(), read_llava_rlhf, weight=5
    ),
)
