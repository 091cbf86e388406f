"""Attention over rows of the shared layout by torch's FlexAttention, with a block mask of the row's segments."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

FLEX = "shared_prefix_flex"
KEYWORD = "shared_prefix"  # travels through the model's forward to every attention layer


def flex(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """As `shared_prefix.sdpa_in_two`; with `shared_prefix` = a BlockMask it says all there is to say about who sees whom."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    mask = options.pop(KEYWORD, None)
    if mask is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    result = _flex_kernel(query.device.type)(
        query, key, value, block_mask=mask, scale=options.get("scaling"), enable_gqa=query.shape[1] != key.shape[1]
    )
    return result.transpose(1, 2).contiguous(), None


def segment_blocks(segment: Tensor) -> Any:
    """The BlockMask of rows made of segments: -1 padding, 0 prompt, k the k-th response. Shape: (B, S)."""
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = segment[row, query] == segment[row, key]
        return (key <= query) & (own | (segment[row, key] == 0))

    rows, columns = segment.shape
    return create_block_mask(sees, rows, None, columns, columns, device=str(segment.device))


@lru_cache(maxsize=2)
def _flex_kernel(device: str) -> Any:
    """Compiled once for rows of any length on a GPU; the plain function on a CPU, where it has no backward when compiled."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True) if device == "cuda" else flex_attention
