"""A forward pass of which only the logits after each row's last token are wanted; keys and values go into a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from parallax.models.backbone import ImageInputs, positions, text_config
from parallax.models.foreign import VLM
from parallax.models.generation.kv_cache import Cache, new_cache


def read_rows(
    model: VLM,
    ids: Tensor,
    mask: Tensor,
    images: Sequence[dict[str, Tensor]],
    image_of: Sequence[int],
    token_inputs: dict[str, Tensor],
    dtype: torch.dtype,
) -> tuple[Tensor, Any, Tensor, tuple[int, ...]]:
    """Begin rows of tokens that look at images.

    Args:
        ids, mask: (B, S), padded on the left; the mask is True on real tokens.
        images: vision inputs, one for each distinct image.
        image_of: which image each row looks at.

    Returns:
        Logits (B, vocabulary), the cache, the position each row goes on from (B,), and how many axes the
        family's position ids have beside rows and columns, as () or (3,) (see `backbone.positions`).
    """
    position_ids, following = positions(model, ids, mask, [images[place] for place in image_of], token_inputs)
    cache = new_cache(text_config(model))
    more = {**token_inputs, **ImageInputs(model, images, dtype).selected(image_of)}
    return go_on(model, ids, mask, position_ids, cache, **more), cache, following, tuple(position_ids.shape[:-2])


def go_on(model: VLM, ids: Tensor, mask: Tensor, position_ids: Tensor, cache: Cache, **more: Any) -> Tensor:
    """Read further tokens. `ids` (B, T); `mask` (B, all columns so far) bool. Shape: (B, vocabulary)."""
    output = model(
        input_ids=ids,
        attention_mask=None if bool(mask.all()) else mask.long(),
        position_ids=position_ids,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
        **more,
    )
    logits: Tensor = output.logits[:, -1]
    return logits
