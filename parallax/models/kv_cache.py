"""Keys and values of the decoding so far, in buffers that grow in steps instead of being copied for every token.

transformers' own dynamic cache joins old and new keys by concatenation, which copies the whole cache once per token and
layer. Here new keys are written into free room at the end; finished rows and columns that are padding for every row left
are given back by `keep`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

STEP = 64  # tokens by which a full buffer grows


class RoomyLayer(DynamicLayer):
    """One layer's keys and values; `keys` and `values` are views of the used part of a larger buffer."""

    keys: Any
    values: Any
    room = 0  # columns of the buffers

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (rows, heads, new, width) and return everything so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            used = 0
        else:
            used = self.keys.shape[-2]
        needed = used + key_states.shape[-2]
        if needed > self.room:
            self._grow(key_states, value_states, used, needed + STEP)
        self._key_room[:, :, used:needed] = key_states
        self._value_room[:, :, used:needed] = value_states
        self.keys, self.values = self._key_room[:, :, :needed], self._value_room[:, :, :needed]
        return self.keys, self.values

    def _grow(self, key_states: Tensor, value_states: Tensor, used: int, room: int) -> None:
        rows, heads, _, width = key_states.shape
        keys = key_states.new_empty(rows, heads, room, width)
        values = value_states.new_empty(rows, heads, room, value_states.shape[-1])
        if used:
            keys[:, :, :used], values[:, :, :used] = self.keys, self.values
        self._key_room, self._value_room, self.room = keys, values, room

    def keep(self, rows: Tensor, first: int) -> None:
        """Keep only these rows, and the columns from `first` on."""
        used = self.keys.shape[-2] - first
        keys = self.keys.new_empty(len(rows), self.keys.shape[1], used + STEP, self.keys.shape[3])
        values = self.values.new_empty(len(rows), self.values.shape[1], used + STEP, self.values.shape[3])
        torch.index_select(self.keys[:, :, first:], 0, rows, out=keys[:, :, :used])
        torch.index_select(self.values[:, :, first:], 0, rows, out=values[:, :, :used])
        self._key_room, self._value_room, self.room = keys, values, used + STEP
        self.keys, self.values = keys[:, :, :used], values[:, :, :used]


def new_cache(config: Any) -> Cache:
    """A cache for a decoder with this text configuration; decoders with sliding windows use transformers' own."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds == {"full_attention"} and not getattr(config, "num_kv_shared_layers", None):
        return Cache(layer_class_to_replicate=RoomyLayer)
    return DynamicCache(config=config)


def keep_rows(cache: Cache, rows: Tensor, first: int) -> int:
    """Drop finished rows, and leading columns where possible. Returns how many columns were dropped (`first` or 0)."""
    layers: list[Any] = cache.layers
    if all(isinstance(layer, RoomyLayer) for layer in layers):
        for layer in layers:
            layer.keep(rows, first)
        return first
    for layer in layers:
        layer.batch_select_indices(rows)
    return 0
