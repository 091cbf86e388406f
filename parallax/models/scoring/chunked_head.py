"""Log-probs of given tokens straight from hidden states: the output head in chunks, without its logits ever being there as
a whole.

log softmax(h Wᵀ + b)[target] needs one number and one sum per row. For a vocabulary of 150,000 the logits of a few responses
take more memory than the rest of a step, and twice that in float32; here a chunk of rows at a time is brought to float32, and
only the sums are kept. Where all rows fit one chunk its logits are kept for the backward pass, else they are made again
there.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from parallax.models.foreign import Pass

CHUNK_BYTES = 2**26  # of float32 logits that are there at once


def rows_per_chunk(vocabulary: int) -> int:
    """Rows whose logits take `CHUNK_BYTES` in float32."""
    return max(1, CHUNK_BYTES // (4 * vocabulary))


class HeadLogProbs(torch.autograd.Function):
    """(hidden, weight, bias, targets) -> log-probs, at least in float32. Shapes: (M, H), (V, H), (V,) or None, (M,) -> (M,).

    With p = softmax(logits): d log p[t] / d logits = onehot(t) − p.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Pass, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk: int
    ) -> Tensor:
        exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        picked = hidden.new_empty(len(hidden), dtype=exact)
        sums = torch.empty_like(picked)
        logits = None
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            logits = linear(hidden[part], weight, bias)
            picked[part] = logits.gather(-1, targets[part, None])[:, 0].to(exact)
            sums[part] = logits.to(exact).logsumexp(dim=-1)
        kept = logits if len(hidden) <= chunk else None  # freed by the backward pass, like everything that is saved
        ctx.dtype = logits.dtype if logits is not None else hidden.dtype  # that of autocast, if it is on
        ctx.save_for_backward(hidden, weight, bias, targets, sums, kept)
        ctx.chunk = chunk
        return picked - sums

    @staticmethod
    def backward(ctx: Pass, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients  # (M,)
        hidden, weight, bias, targets, sums, kept = ctx.saved_tensors
        matrix = weight.to(ctx.dtype)
        for_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        for start in range(0, len(hidden), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            rows = hidden[part].to(ctx.dtype)
            logits = kept if kept is not None else linear(rows, matrix, None if bias is None else bias.to(ctx.dtype))
            wanted = torch.sub(logits, sums[part, None]).exp_().mul_(-gradient[part, None])  # (rows, V)
            wanted.scatter_add_(1, targets[part, None], gradient[part, None])
            wanted = wanted.to(ctx.dtype)
            if for_hidden is not None:
                for_hidden[part] = (wanted @ matrix).to(hidden.dtype)
            if for_weight is not None:
                for_weight += wanted.T @ rows
            if for_bias is not None:
                for_bias += wanted.sum(0).to(bias.dtype)
        return for_hidden, for_weight, for_bias, None, None


def head_log_probs(hidden: Tensor, head: torch.nn.Linear, targets: Tensor, chunk: int | None = None) -> Tensor:
    """log softmax(head(hidden))[target] for every row, `chunk` rows at a time. Shapes: (M, H), (M,) -> (M,)."""
    rows = rows_per_chunk(head.weight.shape[0]) if chunk is None else chunk
    result: Tensor = HeadLogProbs.apply(hidden, head.weight, head.bias, targets, rows)
    return result
