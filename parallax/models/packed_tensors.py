"""Many small tensors in one buffer per type: one piece of shared memory, one pinned block, one copy to the GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class _Place:
    dtype: torch.dtype
    start: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Object:
    """A dataclass taken apart; its class is not asked to hold places for tensors."""

    kind: type
    parts: dict[str, Any]


class Packed:
    """A nest of lists, dicts, dataclasses and tensors whose tensors lie in flat buffers. A tensor met twice is stored once."""

    def __init__(self, buffers: dict[torch.dtype, Tensor], layout: object) -> None:
        self.buffers, self.layout = buffers, layout

    @classmethod
    def of(cls, values: object) -> Packed:
        """Copy the tensors of `values` (CPU) into buffers."""
        parts: dict[torch.dtype, list[Tensor]] = {}
        sizes: dict[torch.dtype, int] = {}
        known: dict[int, _Place] = {}

        def place(tensor: Tensor) -> _Place:
            if id(tensor) not in known:
                start = sizes.get(tensor.dtype, 0)
                parts.setdefault(tensor.dtype, []).append(tensor.reshape(-1))
                sizes[tensor.dtype] = start + tensor.numel()
                known[id(tensor)] = _Place(tensor.dtype, start, tuple(tensor.shape))
            return known[id(tensor)]

        layout = _mapped(values, Tensor, place)
        return cls({dtype: torch.cat(flat) for dtype, flat in parts.items()}, layout)

    def values(self) -> Any:
        """The nest again; its tensors are views of the buffers."""

        def view(place: _Place) -> Tensor:
            buffer = self.buffers[place.dtype]
            return buffer[place.start : place.start + prod(place.shape)].view(place.shape)

        return _mapped(self.layout, _Place, view)

    def to(self, device: torch.device) -> Packed:
        """On `device`, without waiting for the copy where the buffers are pinned."""
        moved = {dtype: buffer.to(device, non_blocking=True) for dtype, buffer in self.buffers.items()}
        return Packed(moved, self.layout)

    def pin_memory(self) -> Packed:
        """In page-locked memory."""
        return Packed({dtype: buffer.pin_memory() for dtype, buffer in self.buffers.items()}, self.layout)


def _mapped(values: object, kind: type, change: Callable[[Any], Any]) -> Any:
    if isinstance(values, kind):
        return change(values)
    if isinstance(values, dict):
        return {name: _mapped(value, kind, change) for name, value in values.items()}
    if isinstance(values, list):
        return [_mapped(value, kind, change) for value in values]
    if isinstance(values, _Object):  # made again from its parts
        return values.kind(**_mapped(values.parts, kind, change))
    if is_dataclass(values) and not isinstance(values, type):
        parts = {field.name: getattr(values, field.name) for field in fields(values)}
        return _Object(type(values), _mapped(parts, kind, change))
    return values
