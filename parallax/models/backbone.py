"""What a vision-language model is made of, found without knowing its family.

transformers' image-text-to-text models share a shape: a text decoder (`get_decoder()`), an output head
(`get_output_embeddings()`), and image features that are put where the image tokens are (`encoding/image_features.py`).

What else a family can do here is in `family_support.json`, written together with the table in docs/models.md by a walk over all
of them (`tests/models/family_walk/walk.py`). One that went wrong on it is refused before its weights are read; one that is not in
the file gets what is right for every family: one sequence for each response, the head as it is.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from parallax.models.foreign import VLM, Config

FAMILIES = Path(__file__).with_name("family_support.json")


def base_model(model: VLM) -> VLM:
    """The transformers model inside a PEFT wrapper; LoRA layers stay where they were injected."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decoder_name(model: VLM) -> str:
    """Dotted name of the text decoder inside `model`, e.g. `model.language_model`. Raises ValueError if there is none."""
    decoder = model.get_decoder()
    for name, module in model.named_modules():
        if module is decoder and name:
            return name
    raise ValueError(f"{type(model).__name__} has no text decoder of its own that LoRA could be limited to")


def text_config(model: VLM) -> Config:
    """The configuration of the language model."""
    return model.config.get_text_config()


# Per-token inputs that are not 0 on the tokens of an answer. PaliGemma's training code marks the answer with 1: everything
# marked 0 is its prefix, in which all tokens see each other.
ON_RESPONSES = {("paligemma", "token_type_ids"): 1}


def on_responses(model: VLM, name: str) -> int:
    """The value of the per-token input `name` on tokens of an answer, and on padding behind it."""
    return ON_RESPONSES.get((model.config.model_type, name), 0)


def positions(
    model: VLM,
    input_ids: Tensor,
    mask: Tensor,
    images: Sequence[dict[str, Tensor]],
    token_inputs: dict[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """Position ids of every token and the position each row goes on from.

    `mask` (B, S) bool is True on real tokens, wherever the padding is; `images` holds the image of each row. Returns
    ids of shape (B, S), or (axes, B, S) for families with multimodal rotary positions, and next positions (B,).
    """
    owner = next((part for part in (getattr(model, "model", None), model) if hasattr(part, "get_rope_index")), None)
    known = inspect.signature(owner.get_rope_index).parameters if owner is not None else {}
    if owner is not None and ("mm_token_type_ids" in token_inputs or "mm_token_type_ids" not in known):
        rows = []
        for row, image in enumerate(images):  # one by one: HunYuan-VL counts the images of a batch on from row to row
            own = slice(row, row + 1)
            given = image | {name: value[own] for name, value in token_inputs.items()}
            extra = {name: value for name, value in given.items() if name in known}
            rows.append(owner.get_rope_index(input_ids[own], attention_mask=mask[own].long(), **extra)[0])
        ids = torch.cat(rows, dim=-2)
        largest = ids.masked_fill(~mask, -1).amax(dim=(0, 2)) if ids.ndim == 3 else ids.amax(dim=1)
        return ids, largest + 1
    ids = (mask.long().cumsum(-1) - 1).clamp(min=0)
    return ids, mask.sum(-1)


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
    """Every family of the file. Where a release's own forward failed, no other release is refused."""
    if not FAMILIES.is_file():
        return {}
    walked = json.loads(FAMILIES.read_text(encoding="utf-8"))
    same = walked["transformers"] == version("transformers")
    return {
        name: FamilySupport(
            not row["step"],
            row["refused"] if same or row["step"] != "forward" else "",
            row["shared"],
            row["plain_head"],
        )
        for name, row in walked["families"].items()
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
