"""Keys and values of the decoding so far, in buffers that grow in steps instead of being copied for every token.

transformers' own dynamic cache joins old and new keys by concatenation, which copies the whole cache once per token and
layer. Here new keys are written into free room at the end. Prompts are read a few rows at a time, each into a cache of its
own, and these caches are joined once into one with room for the answers (`joined`). Finished rows and columns that are
padding for every row left are given back by `keep_rows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from parallax.models.foreign import Config

STEP = 64  # tokens by which a full buffer grows


class RoomyLayer(DynamicLayer):
    """One layer's keys and values; `keys` and `values` are views of the used part of a larger buffer.

    Shape of both: (rows, heads, columns, width).
    """

    keys: Any
    values: Any
    _key_room: Any
    _value_room: Any

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (rows, heads, new, width) and return everything so far."""
        if not self.is_initialized:  # a prompt: no room behind it until it is known how long the answers may be
            self.lazy_initialization(key_states, value_states)
            self._use(key_states, value_states, key_states.shape[-2])
            return self.keys, self.values
        used = self.keys.shape[-2]
        needed = used + key_states.shape[-2]
        if needed > self._key_room.shape[-2]:
            keys, values = self._buffers(self.keys.shape[0], needed + STEP)
            keys[:, :, :used], values[:, :, :used] = self.keys, self.values
            self._key_room, self._value_room = keys, values
        self._key_room[:, :, used:needed] = key_states
        self._value_room[:, :, used:needed] = value_states
        self._use(self._key_room, self._value_room, needed)
        return self.keys, self.values

    def keep(self, rows: Tensor, first: int, more: int) -> None:
        """Keep only these rows, and the columns from `first` on, with room for `more` new ones."""
        used = self.keys.shape[-2] - first
        keys, values = self._buffers(len(rows), used + more)
        torch.index_select(self.keys[:, :, first:], 0, rows, out=keys[:, :, :used])
        torch.index_select(self.values[:, :, first:], 0, rows, out=values[:, :, :used])
        self._use(keys, values, used)

    @classmethod
    def joined(cls, parts: Sequence[RoomyLayer], more: int) -> RoomyLayer:
        """The rows of several layers, their columns flush on the right, with room for `more` columns. Empties the parts."""
        layer = cls()
        layer.lazy_initialization(parts[0].keys, parts[0].values)
        width = max(part.keys.shape[-2] for part in parts)
        keys, values = parts[0]._buffers(sum(part.keys.shape[0] for part in parts), width + more)
        start = 0
        for part in parts:
            end, first = start + part.keys.shape[0], width - part.keys.shape[-2]
            keys[start:end, :, :first], values[start:end, :, :first] = 0, 0  # masked, but must be numbers
            keys[start:end, :, first:width], values[start:end, :, first:width] = part.keys, part.values
            part.keys = part.values = part._key_room = part._value_room = None
            start = end
        layer._use(keys, values, width)
        return layer

    def _use(self, key_room: Tensor, value_room: Tensor, used: int) -> None:
        self._key_room, self._value_room = key_room, value_room
        self.keys, self.values = key_room[:, :, :used], value_room[:, :, :used]

    def _buffers(self, rows: int, room: int) -> tuple[Tensor, Tensor]:
        """Empty buffers for keys and values. Shapes: (rows, heads, room, width)."""
        keys, values = self.keys, self.values
        return (
            keys.new_empty(rows, keys.shape[1], room, keys.shape[3]),
            values.new_empty(rows, values.shape[1], room, values.shape[3]),
        )


def has_full_attention(config: Config) -> bool:
    """Whether every layer of a decoder with this text configuration looks at everything before."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return kinds == {"full_attention"} and not getattr(config, "num_kv_shared_layers", None)


def new_cache(config: Config) -> Cache:
    """A cache for a decoder with this text configuration; decoders with sliding windows use transformers' own."""
    return Cache(layer_class_to_replicate=RoomyLayer) if has_full_attention(config) else DynamicCache(config=config)  # type: ignore[arg-type]


def joined(caches: Sequence[Cache], more: int) -> Cache:
    """Caches of different rows as one, their columns flush on the right, with room for `more` new columns.

    For full-attention decoders. The caches are emptied layer by layer, so that memory never holds everything twice.
    """
    whole = Cache(layer_class_to_replicate=RoomyLayer)
    for parts in zip(*(cache.layers for cache in caches), strict=True):
        layers: list[Any] = list(parts)
        whole.layers.append(RoomyLayer.joined(layers, more))
    return whole


def keep_rows(cache: Cache, rows: Tensor, first: int, more: int) -> int:
    """Drop finished rows, and leading columns where possible. Returns how many columns were dropped (`first` or 0)."""
    layers: list[Any] = cache.layers
    if all(isinstance(layer, RoomyLayer) for layer in layers):
        for layer in layers:
            layer.keep(rows, first, more)
        return first
    for layer in layers:
        layer.batch_select_indices(rows)
    return 0
