"""Attention over rows of the shared layout, without computing what its mask would throw away.

A row is [prompt, response 0, …, response K]. Under one boolean mask the prompt's tokens would be multiplied with every response's
keys and with the later half of the prompt, only for the product to be masked out, forward and backward. Two ways around it, both
registered with transformers as attention implementations of the text decoder:

- `SDPA` (model.attention=auto): the columns that are prompt in every row are attended causally without any mask, and only the
  columns after them (what is left of longer prompts, and the responses) look at the whole row under a mask.
- `FLEX` (model.attention=flex_attention): torch's FlexAttention with a block mask of the row's segments; compiled on a GPU.

Same sums over the same columns, so the results are those of the masked kernel up to the order of additions. Without a shared
prefix (generation, separate sequences) both are transformers' `sdpa`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as attend

from parallax.models.foreign import Pass

SDPA, FLEX = "shared_prefix_sdpa", "shared_prefix_flex"
KEYWORD = "shared_prefix"  # travels through the model's forward to every attention layer


def sdpa_in_two(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface. Shapes: query (B, heads, S, D), key and value (B, kv heads, S, D) -> (B, S, heads, D).

    With `shared_prefix` = n, the mask covers the queries from column n on only: (B, 1, S − n, S) bool.
    """
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    columns: int = options.pop(KEYWORD, 0)
    if not columns:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    assert attention_mask is not None and attention_mask.shape[2] == query.shape[2] - columns, "a mask for what follows"
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    first_query, last_query = query.split([columns, query.shape[2] - columns], dim=2)
    (first_key, key), (first_value, value) = _Beginning.apply(key, columns), _Beginning.apply(value, columns)
    settings = {"scale": options.get("scaling"), "dropout_p": options.get("dropout", 0.0)}
    before = attend(first_query, first_key, first_value, is_causal=True, **settings)
    after = attend(last_query, key, value, attn_mask=attention_mask, **settings)
    return torch.cat([before.transpose(1, 2), after.transpose(1, 2)], dim=1), None


class _Beginning(torch.autograd.Function):
    """The first n columns of keys or values beside all of them; their gradients are added in place, without a padded copy."""

    @staticmethod
    def forward(ctx: Pass, whole: Tensor, columns: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        ctx.columns = columns
        return whole[:, :, :columns], whole.view_as(whole)

    @staticmethod
    def backward(ctx: Pass, *gradients: Tensor) -> tuple[Tensor, None]:
        of_beginning, of_whole = gradients
        of_whole[:, :, : ctx.columns] += of_beginning  # a fresh tensor of the kernel above, nobody else's
        return of_whole, None


def flex(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
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

    from parallax.models.scoring.varlen_attention import VARLEN, varlen

    for name, function in ((SDPA, sdpa_in_two), (FLEX, flex), (VARLEN, varlen)):
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
