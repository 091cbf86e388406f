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
from parallax.models.scoring import prefix_attention
from parallax.models.scoring.layout import Arranged

# Families whose decoders are plainly causal over image and text, so that a mask of ours says all there is to say.
SHARING_FAMILIES = frozenset({"llava", "llava_next", "qwen2_vl", "qwen2_5_vl"})


def can_share(model: Any) -> bool:
    """Whether the shared layout gives this model the same log-probs: a known family, full attention, mask taken as given."""
    config = text_config(model)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    takes_masks = getattr(config, "_attn_implementation", "sdpa") in (
        "sdpa", "eager", prefix_attention.SDPA, prefix_attention.FLEX,
    )  # fmt: skip
    no_window = not getattr(config, "sliding_window", None) or kinds == {"full_attention"}
    return model.config.model_type in SHARING_FAMILIES and kinds == {"full_attention"} and no_window and takes_masks


def shared_prefix(model: Any, batch: ScoringBatch) -> Arranged:
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
            **_masks(text_config(model)._attn_implementation, segment, batch.prompt_lengths, dtype),
            "position_ids": position_ids,
            **{name: filled(value, None) for name, value in batch.token_inputs.items()},
            **ImageInputs(model, batch.vision, dtype, batch.features).expanded([1] * size),
        },
        predictors=counted_row * columns + before,
        targets=batch.response_ids[counted],
    )


def _masks(attention: str, segment: Tensor, prompt_lengths: Tensor, dtype: torch.dtype) -> dict[str, Any]:
    """What says who may look at whom, in the form that the attention implementation takes it. Shapes: (B, S), (B,)."""
    if attention == prefix_attention.SDPA:
        shortest = int(prompt_lengths.min())  # columns that are prompt in every row
        return {"attention_mask": prefix_mask(segment, shortest), prefix_attention.KEYWORD: shortest}
    if attention == prefix_attention.FLEX:
        # a mask has to be given all the same, lest the model make one of its own; nobody reads it
        unread = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=segment.device)
        return {"attention_mask": unread, prefix_attention.KEYWORD: prefix_attention.segment_blocks(segment)}
    mask = prefix_mask(segment)
    if attention == "eager":  # adds its mask to the scores
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
    return {"attention_mask": mask}


def prefix_mask(segment: Tensor, start: int = 0) -> Tensor:
    """Who may look at whom, for the queries from column `start` on: earlier columns of the prompt (segment 0) or of one's own.

    Shape: (B, S) -> (B, 1, S − start, S) bool.
    """
    columns = torch.arange(segment.shape[1], device=segment.device)
    earlier = columns[None, :] <= columns[start:, None]
    own = segment[:, start:, None] == segment[:, None, :]
    return (earlier & (own | (segment == 0)[:, None, :]))[:, None]
