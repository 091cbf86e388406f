"""Log-probabilities of given responses: what every objective is computed from.

log pi(y | image, prompt) is the sum over the response's tokens, end token included, of the log-softmax of the logits one
position earlier. The output head only ever sees those positions: a hook in front of it picks them out of the hidden states, so
that logits of prompt, image and padding positions never exist. Families that are known to have a plain linear head get its
log-probs in chunks (`head.py`); for the others the head and whatever the family does to its logits afterwards (scaling,
soft-capping) run as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from parallax.models.backbone import base_model
from parallax.models.batch import ResponseLogProbs, ScoringBatch
from parallax.models.head import head_log_probs
from parallax.models.layout import Arranged, Layout
from parallax.models.separate_layout import separate_sequences

# Families whose logits are their head's output and nothing else.
PLAIN_HEADS = frozenset({"llava", "llava_next", "qwen2_vl", "qwen2_5_vl"})


def score(model: Any, batch: ScoringBatch, layout: Layout = separate_sequences) -> ResponseLogProbs:
    """Log-probs of all responses of a batch, with gradients where they are enabled. Float32, or float64 for such a model."""
    network = base_model(model)
    arranged = layout(network, batch)
    values = _values(network, arranged)
    counted = batch.counted()
    per_token = values.new_zeros(counted.shape).masked_scatter(counted, values)
    return ResponseLogProbs(total=per_token.sum(-1), counts=counted.sum(-1), per_token=per_token)


def token_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    """log softmax(logits)[target], at least in float32. Shapes: (M, V), (M,) -> (M,)."""
    logits = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    return logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(dim=-1)


def _values(network: Any, arranged: Arranged) -> Tensor:
    """The log-prob of each scored token. Shape: (M,)."""
    head = network.get_output_embeddings()
    plain = network.config.model_type in PLAIN_HEADS and type(head) is torch.nn.Linear
    picked: list[Tensor] = []

    def pick(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0]  # (rows, S, H)
        wanted = hidden.reshape(-1, hidden.shape[-1])[arranged.predictors]
        picked.append(wanted)
        return ((wanted[:0] if plain else wanted)[None], *args[1:])

    handle = head.register_forward_pre_hook(pick)
    try:
        logits: Tensor = network(**arranged.inputs, use_cache=False).logits  # (1, M, V), or (1, 0, V) for a plain head
    finally:
        handle.remove()
    if plain:
        return head_log_probs(picked[0], head, arranged.targets)
    return token_log_probs(logits[0], arranged.targets)
