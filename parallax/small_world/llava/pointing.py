"""Help for finding a named thing in the picture, in training only.

Told only whether an answer was right, a small language model does not learn within reach to look for the thing that a question
names. So some of its attention heads are shown where to look: two heads of an early layer, from the name to the thing's
patches; two heads of a later one, from the place where the answer begins to the names that decide it; and a linear head, thrown
away afterwards, asks between them for the cell of what is named, or that there is none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.models.llama.modeling_llama import rotate_half

from parallax.small_world.llava.rows import ABSENT, Batch

HEADS = 2  # heads that are shown where to look, in each of the two layers
EARLY, ASKED_AFTER, LATE = (
    1,
    3,
    3,
)  # from 0: layer of name → patches; layers before the linear head; layer of answer → names


class Pointing(nn.Module):
    """The linear head and the three losses. `patches` counts image tokens, a square that three cells divide."""

    def __init__(self, hidden: int, patches: int) -> None:
        super().__init__()
        self.cell = nn.Linear(hidden, ABSENT + 1)
        side = int(patches**0.5)
        rows, columns = torch.arange(patches) // side * 3 // side, torch.arange(patches) % side * 3 // side
        self.register_buffer("cell_of_patch", rows * 3 + columns, persistent=False)

    def forward(self, decoder: Any, states: tuple[torch.Tensor, ...], batch: Batch, image_id: int) -> torch.Tensor:
        """The sum of the three losses. `states` are the decoder's hidden states, from the embeddings on."""
        row, place, cell = batch.named.unbind(1)
        loss = nn.functional.cross_entropy(self.cell(states[ASKED_AFTER][row, place]), cell)
        there = cell != ABSENT
        patches = (batch.ids == image_id).nonzero()[:, 1].view(len(batch.ids), -1)  # (rows, patches)
        wanted = torch.zeros(int(there.sum()), batch.ids.shape[1], dtype=torch.bool)
        wanted.scatter_(1, patches[row[there]], self.cell_of_patch == cell[there].unsqueeze(1))
        loss = loss + self._looks(decoder, EARLY, states, batch, row[there], place[there], wanted)
        speakers, back = batch.asks[:, :2].unique(dim=0, return_inverse=True)
        wanted = torch.zeros(len(speakers), batch.ids.shape[1], dtype=torch.bool)
        wanted[back, batch.asks[:, 2]] = True
        return loss + self._looks(decoder, LATE, states, batch, speakers[:, 0], speakers[:, 1], wanted)

    def _looks(
        self, decoder: Any, layer: int, states: tuple[torch.Tensor, ...], batch: Batch, row: torch.Tensor,
        place: torch.Tensor, wanted: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """Mean −log of the attention that (row, place) pays to `wanted` (pairs, length), over the helped heads."""
        attention, norm = decoder.layers[layer].self_attn, decoder.layers[layer].input_layernorm
        normed = norm(states[layer])
        width = attention.head_dim
        cos, sin = decoder.rotary_emb(normed, batch.positions)
        keys = nn.functional.linear(normed, attention.k_proj.weight[: HEADS * width]).unflatten(-1, (HEADS, width))
        asked = nn.functional.linear(normed[row, place], attention.q_proj.weight[: HEADS * width])
        asked = asked.unflatten(-1, (HEADS, width))
        keys = keys * cos.unsqueeze(2) + rotate_half(keys) * sin.unsqueeze(2)
        asked = asked * cos[row, place].unsqueeze(1) + rotate_half(asked) * sin[row, place].unsqueeze(1)
        scores = torch.einsum("phw,plhw->phl", asked, keys[row]) * width**-0.5
        scores = scores.masked_fill(~batch.mask[row, 0, place].unsqueeze(1), float("-inf"))
        paid = scores.log_softmax(-1).masked_fill(~wanted.unsqueeze(1), float("-inf")).logsumexp(-1)
        return -paid.mean()
