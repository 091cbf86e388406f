"""Attention over rows of the shared layout, without computing what its mask would throw away.

A row is [prompt, response 0, …, response K]. Under one boolean mask the prompt's tokens would be multiplied with every response's
keys and with the later half of the prompt, only for the product to be masked out, forward and backward. Two ways around it, both
registered with transformers as attention implementations of the text decoder:

- `SDPA` (model.attention=auto): the columns that are prompt in every row are attended causally without any mask, and only the columns
  after them (what is left of longer prompts, and the responses) look at the whole row under a mask.
- `FLEX` (model.attention=flex_attention): torch's FlexAttention with a block mask made of the row's segments; compiled on a GPU.

Same sums over the same columns, so the results are those of the masked kernel up to the order of additions. Without a shared prefix
(generation, separate sequences) both are transformers' `sdpa`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

SDPA, FLEX = "shared_prefix_sdpa", "shared_prefix_flex"
KEYWORD = "shared_prefix"  # travels through the model's forward to every attention layer


def sdpa_in_two(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface. Shapes: query (B, heads, S, D), key and value (B, kv heads, S, D) -> (B, S, heads, D).

    With `shared_prefix` = n, the mask covers the queries from column n on only: (B, 1, S − n, S) bool.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    columns: int = options.pop(KEYWORD, 0)
    if not columns:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    assert attention_mask is not None and attention_mask.shape[2] == query.shape[2] - columns, "a mask for what follows"
    before, _ = sdpa_attention_forward(
        module, query[:, :, :columns], key[:, :, :columns], value[:, :, :columns], None, **options
    )
    after, _ = sdpa_attention_forward(module, query[:, :, columns:], key, value, attention_mask, **options)
    return torch.cat([before, after], dim=1), None


def flex(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """As `sdpa_in_two`; with `shared_prefix` = a BlockMask it says all there is to say about who sees whom."""
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


def register() -> None:
    """Make both names known to transformers; harmless to call twice."""
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

    for name, function in ((SDPA, sdpa_in_two), (FLEX, flex)):
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
