"""What each family of transformers can do here, as the walk over all of them showed it (`tests/models/family_walk/walk.py`).

The walk writes `family_support.json` and the table in docs/models.md together. A family that went wrong on it is refused before
its weights are read. One that is not in the file gets what is right for every family: one sequence for each response, the head as
it is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

FILE = Path(__file__).with_name("family_support.json")


@dataclass(frozen=True)
class FamilySupport:
    """What one family can do.

    Attributes:
        works: it went all the way on the walk.
        refused: why it cannot be used, or "".
        shared: responses may share one prompt.
        plain_head: its logits are its head's output and nothing else.
    """

    works: bool = False
    refused: str = ""
    shared: bool = False
    plain_head: bool = False


@lru_cache(maxsize=1)
def known_families() -> dict[str, FamilySupport]:
    """Every family of the file."""
    if not FILE.is_file():
        return {}
    rows = json.loads(FILE.read_text(encoding="utf-8"))["families"]
    return {
        name: FamilySupport(not row["step"], row["refused"], row["shared"], row["plain_head"])
        for name, row in rows.items()
    }


def support_of(model_type: str) -> FamilySupport:
    """What the family named `model_type` in config.json can do."""
    return known_families().get(model_type, FamilySupport())


def refuse_unfit(model_type: str, path: str) -> None:
    """Raise ValueError for a checkpoint whose family is known not to work, or is none of image and text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as LOADABLE

    why = support_of(model_type).refused
    if model_type not in LOADABLE:
        why = why or "transformers does not load it as a model of images and text (AutoModelForImageTextToText)"
    if why:
        raise ValueError(
            f"model.path={path} is a {model_type} model, which cannot be aligned here: {why}. The families that can are in "
            "the table of docs/models.md"
        )
