"""The plain layout: one row per response, prompt first, padding last. The reference for every other layout.

The image is still encoded once per prompt, however many responses follow it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from parallax.models.backbone import ImageInputs, on_responses, positions
from parallax.models.batch import Arranged, ScoringBatch
from parallax.models.foreign import VLM


def separate_sequences(model: VLM, batch: ScoringBatch) -> Arranged:
    """B prompts with 1 + K responses as B * (1 + K) rows of [prompt, response, padding].

    Padding comes last and attention is causal, so no mask is needed: nothing that is scored can see it.
    """
    size, responses, width = batch.response_ids.shape
    device = batch.prompt_ids.device
    prompt_lengths = batch.prompt_lengths.repeat_interleave(responses)  # (rows,)
    response_lengths = batch.response_lengths.reshape(-1)
    lengths = prompt_lengths + response_lengths
    columns = torch.arange(int(lengths.max()), device=device).expand(len(lengths), -1)  # (rows, S)
    in_prompt = columns < prompt_lengths[:, None]
    real = columns < lengths[:, None]

    def joined(of_prompt: Tensor, of_response: Tensor | int) -> Tensor:
        """(B, P) and (B, 1 + K, R) as (rows, S)."""
        repeated = of_prompt.repeat_interleave(responses, dim=0)
        first = repeated.gather(1, columns.clamp(max=repeated.shape[1] - 1))
        if isinstance(of_response, int):
            return torch.where(in_prompt, first, torch.full_like(first, of_response))
        places = (columns - prompt_lengths[:, None]).clamp(min=0, max=width - 1)
        return torch.where(in_prompt, first, of_response.reshape(-1, width).gather(1, places))

    input_ids = joined(batch.prompt_ids, batch.response_ids)
    token_inputs = {name: joined(value, on_responses(model, name)) for name, value in batch.token_inputs.items()}
    row_images = [image for image in batch.vision for _ in range(responses)]
    position_ids, _ = positions(model, input_ids, real, row_images, token_inputs)
    if position_ids.ndim == 2:
        position_ids = columns  # padding simply counts on, which keeps the attention plainly causal
    dtype = model.get_input_embeddings().weight.dtype
    images = ImageInputs(model, batch.vision, dtype, batch.features, batch.device).expanded([responses] * size)
    counted = batch.counted()
    row, place = counted.reshape(-1, width).nonzero(as_tuple=True)
    return Arranged(
        inputs={"input_ids": input_ids, "position_ids": position_ids, **token_inputs},
        images=images,
        predictors=row * columns.shape[1] + prompt_lengths[row] + place - 1,
        targets=batch.response_ids[counted],
    )
