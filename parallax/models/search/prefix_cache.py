"""Prompts read once for a search that goes on from them many times: their keys and values, kept while they are asked for.

Every text of a tree begins with the same picture and question. They are read once, and what was said after them is read behind
copies of their keys and values. For decoders with full attention; caches with windows cannot be put together from parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parallax.models.backbone import positions, text_config
from parallax.models.batch import EncodedPrompt
from parallax.models.encoding.image_features import ImageInputs
from parallax.models.foreign import VLM
from parallax.models.generation.kv_cache import Cache, RoomyLayer, joined, new_cache


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


@dataclass
class ReadPrompt:
    """One prompt that the model has read."""

    prompt: EncodedPrompt  # keeps its identity alive
    layers: list[tuple[Tensor, Tensor]]  # keys and values, each (1, heads, tokens, width)
    logits: Tensor  # (V,) of the token after it
    following: Tensor  # () position of that token
    axes: tuple[int, ...]  # of position ids beside rows and columns, (3,) for multimodal rotary positions

    @property
    def length(self) -> int:
        return int(self.layers[0][0].shape[2])


class ReadPrompts:
    """Finds prompts by identity; those that are not asked for any more are forgotten."""

    def __init__(self, model: VLM, pad: int) -> None:
        self.model, self.pad = model, pad
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, model.get_input_embeddings().weight.dtype
        self._known: dict[int, ReadPrompt] = {}

    def keep_only(self, prompts: Sequence[EncodedPrompt]) -> None:
        """Forget all others."""
        wanted = {id(prompt) for prompt in prompts}
        self._known = {key: read for key, read in self._known.items() if key in wanted}

    def get(self, prompts: Sequence[EncodedPrompt]) -> list[ReadPrompt]:
        """Read what is new, in one batch; in the order of `prompts`."""
        new = list({id(prompt): prompt for prompt in prompts if id(prompt) not in self._known}.values())
        if new:
            self._known |= {id(read.prompt): read for read in self._read(new)}
        return [self._known[id(prompt)] for prompt in prompts]

    def as_cache(self, reads: Sequence[ReadPrompt], more: int) -> tuple[Any, Tensor]:
        """One cache with a row per entry, flush on the right, with room for `more` columns; and which columns are real.

        Shape of the second: (rows, columns) bool.
        """
        width = max(read.length for read in reads)
        mask = torch.zeros(len(reads), width, dtype=torch.bool, device=self.device)
        parts = []
        for row, read in enumerate(reads):
            mask[row, width - read.length :] = True
            part = new_cache(text_config(self.model))
            for keys, values in read.layers:
                layer = RoomyLayer()
                layer.update(keys, values)
                part.layers.append(layer)
            parts.append(part)
        return joined(parts, more), mask

    def _read(self, prompts: Sequence[EncodedPrompt]) -> list[ReadPrompt]:
        width = max(len(prompt.input_ids) for prompt in prompts)
        ids = torch.full((len(prompts), width), self.pad, dtype=torch.long)
        mask = torch.zeros(len(prompts), width, dtype=torch.bool)
        names = {name for prompt in prompts for name in prompt.token_inputs}
        token_inputs = {name: prompts[0].token_inputs[name].new_zeros(len(prompts), width) for name in names}
        for row, prompt in enumerate(prompts):
            first = width - len(prompt.input_ids)
            ids[row, first:], mask[row, first:] = prompt.input_ids, True
            for name in names:
                token_inputs[name][row, first:] = prompt.token_inputs[name]
        ids, mask = ids.to(self.device), mask.to(self.device)
        token_inputs = {name: value.to(self.device) for name, value in token_inputs.items()}
        images = [{name: value.to(self.device) for name, value in prompt.vision.items()} for prompt in prompts]
        logits, cache, following, axes = read_rows(
            self.model, ids, mask, images, range(len(prompts)), token_inputs, self.dtype
        )
        reads = []
        for row, prompt in enumerate(prompts):
            first = width - len(prompt.input_ids)
            layers: list[Any] = cache.layers
            own = [
                (layer.keys[row : row + 1, :, first:].clone(), layer.values[row : row + 1, :, first:].clone())
                for layer in layers
            ]
            reads.append(ReadPrompt(prompt, own, logits[row], following[row], axes))
        return reads
