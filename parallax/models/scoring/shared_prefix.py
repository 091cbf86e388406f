"""One row per image: prompt, then all of its responses side by side in time.

Each response attends to the prompt and to itself, and its positions start right after the prompt, as if the others were
not there. So the prompt, mostly image tokens, is read once instead of once per response; the log-probs are those of
`separate_layout`, up to the order of additions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from parallax.models.backbone import ImageInputs, positions, text_config
from parallax.models.batch import ScoringBatch
from parallax.models.family_support import support_of
from parallax.models.foreign import VLM, Config
from parallax.models.scoring import prefix_attention
from parallax.models.scoring.layout import Arranged
from parallax.models.scoring.varlen_attention import VARLEN, segments_of

# Families in whose prompts some tokens see later ones too: runs of equal value of a per-token input, in layers of these kinds.
SEEN_TOGETHER: dict[str, tuple[str, int, frozenset[str]]] = {
    "gemma3": ("token_type_ids", 1, frozenset({"full_attention", "sliding_attention"})),  # the tokens of one image
    "paligemma": ("token_type_ids", 0, frozenset({"full_attention"})),  # image and question
}
FULL, SLIDING = "full_attention", "sliding_attention"
TAKE_MASKS = ("sdpa", "eager", prefix_attention.SDPA, prefix_attention.FLEX, VARLEN)


def can_share(model: VLM) -> bool:
    """Whether the shared layout gives this model the same log-probs: its family has shown so on the walk (`family_support`)."""
    return support_of(model.config.model_type).shared and masks_can_say(model)


def masks_can_say(model: VLM) -> bool:
    """Whether a mask can say who sees whom: layers look at everything or through a window, and attention takes masks."""
    config = text_config(model)
    if getattr(config, "use_bidirectional_attention", None):  # Gemma 4's larger models: in some layers only
        return False
    return layer_kinds(config) <= {FULL, SLIDING} and getattr(config, "_attn_implementation", "sdpa") in TAKE_MASKS


def is_plainly_causal(model: VLM) -> bool:
    """Whether every token sees all tokens before it and no other, in every layer."""
    return layer_kinds(text_config(model)) == {FULL} and model.config.model_type not in SEEN_TOGETHER


def layer_kinds(config: Config) -> frozenset[str]:
    """Kinds of attention layers of a decoder with this text configuration."""
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        return frozenset({SLIDING if getattr(config, "sliding_window", None) else FULL})
    return frozenset(kinds)


def shared_prefix(model: VLM, batch: ScoringBatch) -> Arranged:
    """B prompts with 1 + K responses as B rows of [prompt, response 0, …, response K, padding]."""
    size, responses, width = batch.response_ids.shape
    device = batch.prompt_ids.device
    prompt_width = batch.prompt_ids.shape[1]
    in_prompt = torch.arange(prompt_width, device=device) < batch.prompt_lengths[:, None]
    ends = batch.prompt_lengths[:, None] + batch.response_lengths.cumsum(dim=1)  # (B, 1 + K)
    starts = ends - batch.response_lengths
    columns = int(ends[:, -1].max())
    prompt_positions, following = positions(
        model, batch.prompt_ids, in_prompt, batch.vision, batch.token_inputs
    )  # (B, P) or (3, B, P), and (B,)

    place = torch.arange(width, device=device)
    real = place < batch.response_lengths[..., None]  # (B, 1 + K, R)
    target_columns = (starts[..., None] + place)[real]  # where each response token goes
    row = torch.arange(size, device=device)[:, None, None].expand_as(real)[real]
    segment_of = torch.arange(1, responses + 1, device=device)[None, :, None].expand_as(real)[real]

    def filled(of_prompt: Tensor, of_responses: Tensor | None) -> Tensor:
        """(B, P) and the response tokens' values as (B, S); 0 elsewhere."""
        result = of_prompt.new_zeros(size, columns)
        kept = min(prompt_width, columns)
        result[:, :kept] = of_prompt[:, :kept].masked_fill(~in_prompt[:, :kept], 0)
        if of_responses is not None:
            result[row, target_columns] = of_responses
        return result

    answer_positions = (following[:, None, None] + place).expand_as(real)[real]
    if prompt_positions.ndim == 3:
        position_ids = torch.stack([filled(axis, answer_positions) for axis in prompt_positions])
    else:
        position_ids = filled(prompt_positions, answer_positions)
    segment = torch.full((size, columns), -1, device=device)  # -1 padding, 0 prompt, k the k-th response
    kept = min(prompt_width, columns)
    segment[:, :kept] = torch.where(in_prompt[:, :kept], 0, -1)
    segment[row, target_columns] = segment_of
    dtype = model.get_input_embeddings().weight.dtype
    counted = batch.counted()
    counted_row, counted_response, counted_place = counted.nonzero(as_tuple=True)
    before = torch.where(
        counted_place > 0,
        starts[counted_row, counted_response] + counted_place - 1,
        batch.prompt_lengths[counted_row] - 1,  # the first token of every response is predicted by the prompt's last
    )
    return Arranged(
        inputs={
            "input_ids": filled(batch.prompt_ids, batch.response_ids[real]),
            **_masks(model, segment, batch, dtype),
            "position_ids": position_ids,
            **{name: filled(value, None) for name, value in batch.token_inputs.items()},
        },
        images=ImageInputs(model, batch.vision, dtype, batch.features, batch.device).expanded([1] * size),
        predictors=counted_row * columns + before,
        targets=batch.response_ids[counted],
    )


def _masks(model: VLM, segment: Tensor, batch: ScoringBatch, dtype: torch.dtype) -> dict[str, Any]:
    """What says who may look at whom, in the form that the model takes it. Shape of `segment`: (B, S)."""
    config = text_config(model)
    attention = config._attn_implementation
    if attention == prefix_attention.SDPA:
        shortest = int(batch.prompt_lengths.min())  # columns that are prompt in every row
        return {"attention_mask": prefix_mask(segment, shortest), prefix_attention.KEYWORD: shortest}
    if attention == prefix_attention.FLEX:
        return {
            "attention_mask": _unread(segment),
            prefix_attention.KEYWORD: prefix_attention.segment_blocks(segment.to(batch.device or segment.device)),
        }
    if attention == VARLEN:
        return {"attention_mask": _unread(segment), prefix_attention.KEYWORD: segments_of(segment)}
    together, of_kinds = _seen_together(model, segment, batch)
    masks = {}
    for kind in sorted(layer_kinds(config)):
        mask = prefix_mask(segment)
        if together is not None and kind in of_kinds:
            mask = mask | together
        if kind == SLIDING:
            mask = mask & (_distances(segment, batch.prompt_lengths) < config.sliding_window)[:, None]
        if attention == "eager":  # adds its mask to the scores
            mask = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
        masks[kind] = mask
    return {"attention_mask": masks if len(masks) > 1 else next(iter(masks.values()))}


def _unread(segment: Tensor) -> Tensor:
    """A mask has to be given all the same, lest the model make one of its own; nobody reads it."""
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=segment.device)


def _seen_together(model: VLM, segment: Tensor, batch: ScoringBatch) -> tuple[Tensor | None, frozenset[str]]:
    """Pairs of prompt tokens that see each other in both directions, and in which kinds of layers. Shape: (B, 1, S, S) bool."""
    name, value, kinds = SEEN_TOGETHER.get(model.config.model_type, ("", 0, frozenset()))
    if name not in batch.token_inputs:
        return None, kinds
    marked = torch.zeros_like(segment, dtype=torch.bool)
    width = min(batch.prompt_ids.shape[1], segment.shape[1])
    marked[:, :width] = batch.token_inputs[name][:, :width] == value
    marked &= segment == 0
    run = (marked & ~torch.nn.functional.pad(marked, (1, 0))[:, :-1]).cumsum(-1)  # number of the run it belongs to
    both = marked[:, :, None] & marked[:, None, :]
    return (both & (run[:, :, None] == run[:, None, :]))[:, None], kinds


def _distances(segment: Tensor, prompt_lengths: Tensor) -> Tensor:
    """How far each key lies before each query in the sequence that they would be alone. Shape: (B, S, S)."""
    columns = torch.arange(segment.shape[1], device=segment.device).expand_as(segment)
    first = torch.where(segment[:, None, :] == segment[:, :, None], columns[:, None, :], segment.shape[1]).amin(-1)
    order = torch.where(segment > 0, columns - first + prompt_lengths[:, None], columns)
    return order[:, :, None] - order[:, None, :]


def prefix_mask(segment: Tensor, start: int = 0) -> Tensor:
    """Who may look at whom, for the queries from column `start` on: earlier columns of the prompt (segment 0) or of one's own.

    Shape: (B, S) -> (B, 1, S − start, S) bool.
    """
    columns = torch.arange(segment.shape[1], device=segment.device)
    earlier = columns[None, :] <= columns[start:, None]
    own = segment[:, start:, None] == segment[:, None, :]
    return (earlier & (own | (segment == 0)[:, None, :]))[:, None]
