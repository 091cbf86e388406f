"""What a vision-language model is made of, found without knowing its family.

transformers' image-text-to-text models share a shape: a text decoder (`get_decoder()`), an output head
(`get_output_embeddings()`), and image features that are put where the image tokens are. Families that let ready image
features be passed in (`mm_encoder_outputs`) have each image encoded once, however many rows look at it; for the others the
pixels are repeated.
"""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad as pad_tensor


def base_model(model: Any) -> Any:
    """The transformers model inside a PEFT wrapper; LoRA layers stay where they were injected."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decoder_name(model: Any) -> str:
    """Dotted name of the text decoder inside `model`, e.g. `model.language_model`. Raises ValueError if there is none."""
    decoder = model.get_decoder()
    for name, module in model.named_modules():
        if module is decoder and name:
            return name
    raise ValueError(f"{type(model).__name__} has no text decoder of its own that LoRA could be limited to")


def text_config(model: Any) -> Any:
    """The configuration of the language model."""
    return model.config.get_text_config()


@lru_cache(maxsize=64)
def _parameters_of(cls: Hashable, method: str) -> frozenset[str]:
    return frozenset(inspect.signature(getattr(cls, method)).parameters)


def accepts(model: Any, name: str) -> bool:
    """Whether the model's forward has a parameter of this name."""
    cls: Any = type(model)
    return name in _parameters_of(cls, "forward")


def join_vision(images: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The vision inputs of several images as one batch.

    Images lie one after the other along the first dimension, whatever that counts in the family (images, or patches).
    Images with fewer tiles or patches in a later dimension are filled up with zeros, which the models cut off again.
    """
    if not images:
        return {}
    joined = {}
    for name in images[0]:
        parts = [image[name] for image in images]
        if parts[0].ndim > 1:
            sizes = [max(part.shape[d] for part in parts) for d in range(1, parts[0].ndim)]
            parts = [
                pad_tensor(part, [n for d in range(part.ndim - 1, 0, -1) for n in (0, sizes[d - 1] - part.shape[d])])
                if list(part.shape[1:]) != sizes
                else part
                for part in parts
            ]
        joined[name] = torch.cat(parts)
    return joined


def cast_vision(vision: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Floating vision inputs in the model's precision."""
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in vision.items()}


class ImageInputs:
    """How the images of a batch are given to the model: as ready features where the family allows it, else as pixels.

    `expanded(counts)` gives keyword arguments for a batch in which image i is looked at by `counts[i]` rows in a row.
    """

    def __init__(
        self,
        model: Any,
        images: Sequence[dict[str, Tensor]],
        dtype: torch.dtype,
        features: Sequence[Tensor] | None = None,
    ) -> None:
        self.model = model
        self.images = [cast_vision(image, dtype) for image in images]
        self.features = list(features) if features is not None else None
        if self.features is None and accepts(model, "mm_encoder_outputs") and hasattr(model, "get_image_features"):
            self.features = image_features(model, self.images)

    def expanded(self, counts: Sequence[int]) -> dict[str, Any]:
        """Shape of the batch they fit: (sum(counts), …)."""
        rows = [index for index, count in enumerate(counts) for _ in range(count)]
        return self.selected(rows)

    def selected(self, rows: Sequence[int]) -> dict[str, Any]:
        """Keyword arguments for a batch whose row r looks at image `rows[r]`."""
        if self.features is None:
            return dict(join_vision([self.images[row] for row in rows]))
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        ready = BaseModelOutputWithPooling()
        ready["pooler_output"] = [self.features[row] for row in rows]  # one tensor per image, as the models make it
        return {"mm_encoder_outputs": {"image": ready}}


def image_features(model: Any, images: Sequence[dict[str, Tensor]]) -> list[Tensor] | None:
    """One feature tensor (image tokens, hidden) per image, or None where the family does not give them one by one."""
    vision = join_vision(images)
    cls: Any = type(model.model if hasattr(model, "model") else model)
    known = _parameters_of(cls, "get_image_features")
    inputs = {name: value for name, value in vision.items() if name in known}
    features = model.get_image_features(**inputs, return_dict=True).pooler_output
    if isinstance(features, Tensor):
        features = list(features)
    return [feature.reshape(-1, feature.shape[-1]) for feature in features] if len(features) == len(images) else None


def positions(
    model: Any,
    input_ids: Tensor,
    mask: Tensor,
    images: Sequence[dict[str, Tensor]],
    token_inputs: dict[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """Position ids of every token and the position each row goes on from.

    `mask` (B, S) bool is True on real tokens, wherever the padding is; `images` holds the image of each row. Returns
    ids of shape (B, S), or (3, B, S) for families with multimodal rotary positions, and next positions (B,).
    """
    core = model.model if hasattr(model, "model") else model
    if hasattr(core, "get_rope_index") and "mm_token_type_ids" in token_inputs:
        vision = join_vision(images)
        known = inspect.signature(core.get_rope_index).parameters
        extra = {name: vision[name] for name in ("image_grid_thw",) if name in known and name in vision}
        ids, _ = core.get_rope_index(
            input_ids, mm_token_type_ids=token_inputs["mm_token_type_ids"], attention_mask=mask.long(), **extra
        )
        largest = ids.masked_fill(~mask, -1).amax(dim=(0, 2)) if ids.ndim == 3 else ids.amax(dim=1)
        return ids, largest + 1
    ids = (mask.long().cumsum(-1) - 1).clamp(min=0)
    return ids, mask.sum(-1)
