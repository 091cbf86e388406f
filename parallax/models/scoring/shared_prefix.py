"""One row per image: prompt, then all of its responses side by side in time.

Each response attends to the prompt and to itself, and its positions start right after the prompt, as if the others were
not there. So the prompt, mostly image tokens, is read once instead of once per response; the log-probs are those of
`separate_sequences`, up to the order of additions.

A row is [prompt, response 0, …, response K]. Under one boolean mask the prompt's tokens would be multiplied with every response's
keys and with the later half of the prompt, only for the product to be masked out, forward and backward. So attention is, by
names under which transformers' text decoders find it:

- `SDPA` (model.attention=auto): the columns that are prompt in every row are attended causally without any mask, and only the
  columns after them (what is left of longer prompts, and the responses) look at the whole row under a mask.
- `FLEX` (model.attention=flex_attention) and `VARLEN`: kernels of GPUs, a file each.

Same sums over the same columns, so the results are those of the masked kernel up to the order of additions. Without a shared
prefix (generation, separate sequences) all of them are transformers' `sdpa`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as attend

from parallax.models.backbone import positions, support_of, text_config
from parallax.models.batch import Arranged, ScoringBatch
from parallax.models.encoding.image_features import ImageInputs
from parallax.models.foreign import VLM, Config, Pass
from parallax.models.scoring.varlen_attention import FLEX, KEYWORD, VARLEN, flex, segment_blocks, segments_of, varlen

SDPA = "shared_prefix_sdpa"

# Families in whose prompts some tokens see later ones too: runs of equal value of a per-token input, in layers of these kinds.
SEEN_TOGETHER: dict[str, tuple[str, int, frozenset[str]]] = {
    "gemma3": ("token_type_ids", 1, frozenset({"full_attention", "sliding_attention"})),  # the tokens of one image
    "paligemma": ("token_type_ids", 0, frozenset({"full_attention"})),  # image and question
}
FULL, SLIDING = "full_attention", "sliding_attention"
TAKE_MASKS = ("sdpa", "eager", SDPA, FLEX, VARLEN)


def can_share(model: VLM) -> bool:
    """Whether the shared layout gives this model the same log-probs: its family has shown so (`support_of`)."""
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
    if attention == SDPA:
        shortest = int(batch.prompt_lengths.min())  # columns that are prompt in every row
        return {"attention_mask": prefix_mask(segment, shortest), KEYWORD: shortest}
    if attention == FLEX:
        return {
            "attention_mask": _unread(segment),
            KEYWORD: segment_blocks(segment.to(batch.device or segment.device)),
        }
    if attention == VARLEN:
        return {"attention_mask": _unread(segment), KEYWORD: segments_of(segment)}
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


def register_attention() -> None:
    """Make all names known to transformers; harmless to call twice."""
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

    for name, function in ((SDPA, sdpa_in_two), (FLEX, flex), (VARLEN, varlen)):
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
