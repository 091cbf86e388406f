"""Attention over rows of the shared layout by variable-length flash attention: no mask, no padding, nothing thrown away.

All real tokens of a batch lie one after the other. Each attends causally within its own segment, a prompt or a response: one
call over all segments. Tokens of responses attend to their prompt as well: a second call without a causal mask, whose queries
are all responses of a row and whose keys are its prompt. A call gives its result O and the log L of its sum of exponentials;
over both, with L = log(exp L1 + exp L2), attention is exp(L1 - L) O1 + exp(L2 - L) O2. In the backward pass each call's kernel
is given the merged result and L, which makes its gradients those of the whole (as in ring attention, arXiv 2310.01889).

`VARLEN` is the name under which transformers finds it. The kernel is torch's own, on GPUs that have it, in half precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from parallax.models.foreign import Pass

VARLEN = "shared_prefix_varlen"
CLOSE = 2e-2  # largest error, in units of the largest number, that half precision may have in the check


@dataclass(frozen=True)
class Segments:
    """Where the T tokens of a batch of rows (B, S) lie: U of them in responses, P in prompts."""

    real: Tensor  # (T,) their columns among B * S
    said: Tensor  # (U,) tokens of responses among the T
    read: Tensor  # (P,) tokens of prompts among the T
    own: Tensor  # (segments + 1,) int32: where each prompt and response begins among the T
    answers: Tensor  # (B + 1,) int32: where each row's responses begin among the U
    prompts: Tensor  # (B + 1,) int32: where each row's prompt begins among the P
    longest: tuple[int, int, int]  # segment, responses of a row, prompt


Tensors = tuple[Tensor, Tensor, Tensor]  # queries, keys and values
Offsets = tuple[Tensor, Tensor]  # where each sequence of queries begins, and each of keys
Longest = tuple[int, int]  # tokens of the longest of each


class Kernel(Protocol):
    """Attention of packed sequences. Shapes: q (T, heads, D), k and v (T', kv heads, D), lse (heads, T)."""

    def forward(
        self,
        qkv: Tensors,
        offsets: Offsets,
        longest: Longest,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        """Result and log of the sum of exponentials."""
        ...  # fmt: skip

    def backward(
        self,
        gradient: Tensor,
        qkv: Tensors,
        result: Tensor,
        lse: Tensor,
        offsets: Offsets,
        longest: Longest,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of q, k and v."""
        ...  # fmt: skip


class Flash:
    """torch's flash attention for sequences of any length."""

    def forward(
        self, qkv: Tensors, offsets: Offsets, longest: Longest, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        found = torch.ops.aten._flash_attention_forward(*qkv, *offsets, *longest, 0.0, causal, False, scale=scale)
        return found[0], found[1]

    def backward(
        self,
        gradient: Tensor,
        qkv: Tensors,
        result: Tensor,
        lse: Tensor,
        offsets: Offsets,
        longest: Longest,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        drawn = torch.zeros(2, dtype=torch.uint64, device=lse.device)  # of dropout, of which there is none
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._flash_attention_backward(
            gradient, *qkv, result, lse.contiguous(), *offsets, *longest, 0.0, causal, drawn, drawn[:0], scale=scale
        )
        return found


KERNEL: Kernel = Flash()


def segments_of(segment: Tensor) -> Segments:
    """From rows made of segments: -1 padding at the end, 0 prompt, k the k-th response. Shape: (B, S), on the host."""
    flat = segment.flatten()
    real = (flat >= 0).nonzero()[:, 0]
    kinds = flat[real]
    runs = torch.unique_consecutive((real // segment.shape[1]) * (segment.max() + 1) + kinds, return_counts=True)[1]
    answers, prompts = (segment > 0).sum(1), (segment == 0).sum(1)
    longest = int(runs.max()), int(answers.max()), int(prompts.max())
    own, of_answers, of_prompts = (torch.nn.functional.pad(n.cumsum(0), (1, 0)).int() for n in (runs, answers, prompts))
    return Segments(
        real, (kinds > 0).nonzero()[:, 0], (kinds == 0).nonzero()[:, 0], own, of_answers, of_prompts, longest
    )


def varlen(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface. Shapes: query (B, heads, S, D), key and value (B, kv heads, S, D) -> (B, S, heads, D).

    `shared_prefix` = `Segments` says who sees whom; without it this is transformers' `sdpa`.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    segments = options.pop(KEYWORD, None)
    if segments is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    result: Tensor = _Merged.apply(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), segments, scale)
    return result, None


class _Merged(torch.autograd.Function):
    """Both calls and their merging. Shapes: q (B, S, heads, D), k and v (B, S, kv heads, D) -> (B, S, heads, D)."""

    @staticmethod
    def forward(ctx: Pass, *inputs: Any) -> Tensor:
        *rows, seg, scale = inputs
        q, k, v = (x.flatten(0, 1).index_select(0, seg.real) for x in rows)  # (T, heads, D)
        result, lse = KERNEL.forward((q, k, v), (seg.own, seg.own), (seg.longest[0],) * 2, True, scale)
        far, far_lse = KERNEL.forward(
            _of_answers(q, k, v, seg), (seg.answers, seg.prompts), seg.longest[1:], False, scale
        )
        near_lse = lse.index_select(1, seg.said)
        whole = torch.logaddexp(near_lse, far_lse)  # (heads, U)
        near = result.index_select(0, seg.said) * _share(near_lse, whole) + far * _share(far_lse, whole)
        result, lse = result.index_copy(0, seg.said, near.to(result.dtype)), lse.index_copy(1, seg.said, whole)
        ctx.save_for_backward(q, k, v, result, lse)
        ctx.seg, ctx.scale, ctx.shape = seg, scale, rows[0].shape[:2]
        return _in_rows(result, seg, rows[0].shape[:2])

    @staticmethod
    def backward(ctx: Pass, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        seg, scale = ctx.seg, ctx.scale
        q, k, v, result, lse = ctx.saved_tensors
        gradient = gradients[0].flatten(0, 1).index_select(0, seg.real)
        found = KERNEL.backward(
            gradient, (q, k, v), result, lse, (seg.own, seg.own), (seg.longest[0],) * 2, True, scale
        )
        far = KERNEL.backward(
            gradient.index_select(0, seg.said), _of_answers(q, k, v, seg), result.index_select(0, seg.said),
            lse.index_select(1, seg.said), (seg.answers, seg.prompts), seg.longest[1:], False, scale,
        )  # fmt: skip
        for whole, part, places in zip(found, far, (seg.said, seg.read, seg.read), strict=True):
            whole.index_add_(0, places, part)
        return *(_in_rows(x, seg, ctx.shape) for x in found), None, None


def _of_answers(q: Tensor, k: Tensor, v: Tensor, seg: Segments) -> tuple[Tensor, Tensor, Tensor]:
    return q.index_select(0, seg.said), k.index_select(0, seg.read), v.index_select(0, seg.read)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return (part - whole).exp().T[..., None]  # (U, heads, 1)


def _in_rows(packed: Tensor, seg: Segments, shape: tuple[int, int]) -> Tensor:
    rows = packed.new_zeros(shape[0] * shape[1], *packed.shape[1:])
    return rows.index_copy_(0, seg.real, packed).unflatten(0, shape)


def fault_of(device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, width: int) -> str:
    """Why this attention cannot be used on `device`; empty where it can, which a small example has shown."""
    if device.type != "cuda":
        return "flash attention is for GPUs"
    if dtype not in (torch.bfloat16, torch.float16) or width % 8 or width > 256:
        return f"flash attention wants half precision and heads of at most 256, and here are {dtype} and {width}"
    try:
        error = check_error(device, dtype, heads, kv_heads, width)
    except (RuntimeError, NotImplementedError, AttributeError) as problem:
        return f"torch's flash attention does not run here ({str(problem).splitlines()[0][:120]})"
    return "" if error <= CLOSE else f"torch's flash attention is off by {error:.2g} here"


def check_error(device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, width: int) -> float:
    """Largest error of result and gradients against attention under a dense mask, in units of their largest number."""
    from parallax.models.batch import sent
    from parallax.models.scoring.shared_prefix import prefix_mask

    segment = torch.tensor([[0] * 5 + [1] * 3 + [2] * 4, [0] * 7 + [1] + [2] * 2 + [-1] * 2])
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(2, n, 12, width, generator=generator) for n in (heads, kv_heads, kv_heads, heads)]
    *inputs, gradient = (row.to(device, dtype) for row in rows)
    real = (segment >= 0).to(device)[:, :, None, None]
    segments, mask = sent([segments_of(segment), prefix_mask(segment)], device)
    found = []
    for way in ("varlen", "dense"):
        q, k, v = leaves = [x.detach().clone().requires_grad_() for x in inputs]
        if way == "varlen":
            result, _ = varlen(nn.Identity(), q, k, v, None, **{KEYWORD: segments})
        else:
            k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k, v))
            mask = mask | ~mask.any(-1, keepdim=True)  # padding sees something, lest it be no number
            result = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2) * real
        found.append([result.detach(), *torch.autograd.grad(result, leaves, gradient.transpose(1, 2) * real)])
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*found, strict=True))


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
