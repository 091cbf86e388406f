"""From logits to the next token: greedy, or temperature and nucleus sampling with noise that belongs to the row.

Sampling draws one uniform number per row and step from the row's own generator and looks it up in the cumulative
distribution (inverse transform). What a row says hence depends on its own seed and nothing else: not on the rows
beside it, their order, or the device's generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from parallax.records import Decoding

# Rounding errors in a logit, in units of the type's precision: long sums gather several in float32; half-precision
# networks add up in float32 and round once per layer.
_UNITS = {torch.float64: 16.0, torch.float32: 16.0, torch.bfloat16: 2.0, torch.float16: 2.0}


def near_tie_margin(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """How close two logits may be before arithmetic of `dtype` cannot order them reliably. Shape: logits' without the last.

    16 units of the type's precision (2 in half precision) at the size of the largest logit. A greedy step whose best two
    logits are closer is a near-tie.
    """
    return _UNITS[dtype] * torch.finfo(dtype).eps * logits.abs().amax(dim=-1).clamp(min=1.0)


class TokenPicker:
    """Picks the next token of each of the rows it was made for. Rows keep their number when others are dropped."""

    def __init__(self, decodings: Sequence[Decoding], device: torch.device) -> None:
        self.temperature = torch.tensor([d.temperature for d in decodings], device=device, dtype=torch.float64)
        self.top_p = torch.tensor([d.top_p for d in decodings], device=device, dtype=torch.float64)
        self.all_greedy = all(d.greedy for d in decodings)
        longest = max(d.max_new_tokens for d in decodings)
        self.uniforms = torch.zeros(len(decodings), longest, dtype=torch.float64)
        for row, decoding in enumerate(decodings):
            if not decoding.greedy:
                generator = torch.Generator().manual_seed(decoding.seed)
                self.uniforms[row, : decoding.max_new_tokens] = torch.rand(
                    decoding.max_new_tokens, generator=generator, dtype=torch.float64
                )
        self.uniforms = self.uniforms.to(device)

    def pick(self, logits: Tensor, rows: Tensor, step: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Next tokens and which of them were greedy near-ties. Shapes: logits (N, V), rows (N,) -> (N,), (N,) bool."""
        logits = logits.float()
        best, near = _greedy(logits, dtype)
        if self.all_greedy:
            return best, near
        temperature = self.temperature[rows]
        greedy = temperature == 0.0
        drawn = sample(logits, temperature.masked_fill(greedy, 1.0), self.top_p[rows], self.uniforms[rows, step])
        return torch.where(greedy, best, drawn), near & greedy

    def pick_again(self, logits: Tensor, rows: Tensor, step: int, picked: Tensor, banned: Tensor) -> Tensor:
        """`picked` (N,), with another pick in each row that picked one of the tokens `banned` (ids)."""
        sayable = logits.float().index_fill(-1, banned, float("-inf"))
        greedy = self.temperature[rows] == 0.0
        temperature = self.temperature[rows].masked_fill(greedy, 1.0)
        drawn = sample(sayable, temperature, self.top_p[rows], self.uniforms[rows, step])
        again = torch.where(greedy, sayable.argmax(dim=-1), drawn)
        return torch.where(torch.isin(picked, banned), again, picked)


def _greedy(logits: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    top = logits.topk(2, dim=-1).values
    return logits.argmax(dim=-1), top[:, 0] - top[:, 1] < near_tie_margin(logits, dtype)


def in_order(logits: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities, largest first, and their tokens; equal ones in the order of tokens. Shapes: (N, V).

    A GPU sorts the float32 logits, which have the same order and half the bytes; numbers that only differ as logits (both
    are nothing as probabilities) may then change places. A CPU keeps to the probabilities, as answers were always drawn.
    """
    if probabilities.device.type == "cpu":
        return probabilities.sort(dim=-1, descending=True, stable=True)
    return _by_logits(logits, probabilities)


def _by_logits(logits: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    order = logits.sort(dim=-1, descending=True, stable=True).indices
    return probabilities.gather(-1, order), order


def sample(logits: Tensor, temperature: Tensor, top_p: Tensor, uniform: Tensor) -> Tensor:
    """Inverse-transform sampling. Shapes: logits (N, V), others (N,) with 0 <= uniform < 1 -> token ids (N,).

    The nucleus holds the most probable tokens up to and including the one at which their sum reaches `top_p`.
    """
    probabilities = (logits.double() / temperature[:, None]).softmax(dim=-1)
    ordered, order = in_order(logits, probabilities)
    cumulative = ordered.cumsum(dim=-1)
    outside = cumulative - ordered >= top_p[:, None]
    outside[:, 0] = False
    cumulative = ordered.masked_fill(outside, 0.0).cumsum(dim=-1)
    target = uniform[:, None] * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, target, right=True).clamp(max=ordered.shape[-1] - 1)
    last = (~outside).sum(dim=-1, keepdim=True) - 1
    return order.gather(-1, torch.minimum(place, last))[:, 0]
