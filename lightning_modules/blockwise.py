"""Optimiser moments in eight bits, as bitsandbytes keeps them, and back.

256 numbers that follow each other are a block. A block has one scale, its largest magnitude, and of each number the place in a
table of 256 values ("qmap") that is nearest to the number over the scale. Blocks are those of the part of a tensor that a
process holds; moments that go to another part therefore travel as float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

BLOCK = 256  # numbers with one scale; bitsandbytes' kernels know no other
HIDDEN = "__bnb_optimizer_quant_state__"  # bitsandbytes' checkpoints put a parameter's tensors under this key


def to_float32(state: Mapping[str, Any], which: int) -> Tensor:
    """A moment out of bitsandbytes' state of a parameter, on the CPU.

    Args:
        state: state1, state2 (uint8, or float32 where moments are not quantised), and qmap1, absmax1, … beside uint8.
        which: 1 for the running mean of the gradient, 2 for that of its square.

    Returns:
        float32, of the state's shape.
    """
    kept = state[f"state{which}"].cpu()
    if kept.dtype != torch.uint8:
        return kept.float()  # type: ignore[no-any-return]
    table, scales = state[f"qmap{which}"].cpu(), state[f"absmax{which}"].cpu()
    values = _in_blocks(table[kept.reshape(-1).int()]) * scales[:, None]
    return values.view(-1)[: kept.numel()].view(kept.shape)


def to_eight_bits(values: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Places in `table` and scales, such that what `to_float32` gave from the same blocks comes back as it was.

    The table of signed numbers ends at +1 and begins at -0.993, so a block whose largest magnitude is negative has been made a
    little smaller; bitsandbytes' own quantisation would shrink it each time anew. Here the scale is the one that was.

    Args:
        values: float32. Shape: (numbers,).
        table: 256 ascending values, the last one 1.

    Returns:
        uint8 of shape (numbers,), and a float32 scale per block.
    """
    blocks = _in_blocks(values)
    scales = blocks.amax(1)
    if table[0] < 0:
        lowest = -blocks.amin(1)
        scales = torch.where(scales > lowest, scales, lowest / -table[0])
    relative = blocks / torch.where(scales > 0, scales, 1.0)[:, None]
    places = torch.bucketize(relative, (table[1:] + table[:-1]) / 2)
    return places.to(torch.uint8).view(-1)[: values.numel()], scales


def _in_blocks(values: Tensor) -> Tensor:
    """Shape: (blocks, BLOCK); the last one filled up with zeros."""
    return torch.nn.functional.pad(values, (0, -values.numel() % BLOCK)).view(-1, BLOCK)
