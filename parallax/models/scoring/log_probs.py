"""Log-probabilities of given responses: what every objective is computed from.

log pi(y | image, prompt) is the sum over the response's tokens, end token included, of the log-softmax of the logits one
position earlier. The output head only ever sees those positions: a hook in front of it picks them out of the hidden states, so
that logits of prompt, image and padding positions never exist. Families that are known to have a plain linear head get its
log-probs in chunks; for the others the head and whatever the family does to its logits afterwards (scaling,
soft-capping) run as they are.

The head in chunks: log softmax(h Wᵀ + b)[target] needs one number and one sum per row. For a vocabulary of 150,000 the logits
of a few responses take more memory than the rest of a step, and twice that in float32; here a chunk of rows at a time is brought
to float32, and only the sums are kept. Where all rows fit one chunk its logits are kept for the backward pass, else they are made
again there.

Tokens a network prefers to the given ones: how some published code scores rejected responses.

The trainers of POVID's line (STIC, arXiv 2405.19716, and SIMA, arXiv 2405.15973, as released) do not score the rejected text
itself. At each of its positions they take the network's own best token, the text up to there given, and where that is the
text's token the second best. Their papers describe plain DPO, which is `label` here and the default.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import linear

from parallax.models.backbone import base_model, on_responses, positions, support_of
from parallax.models.batch import Arranged, Layout, ResponseLogProbs, ScoringBatch
from parallax.models.encoding.image_features import ImageInputs
from parallax.models.foreign import VLM, Pass

WHOLE_HEAD = "_parallax_whole_head"
CHUNK_BYTES = 2**26  # of float32 logits that are there at once


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


def score(
    model: VLM, batch: ScoringBatch, layout: Layout = separate_sequences, pick: Pick = "label"
) -> ResponseLogProbs:
    """Log-probs of all responses of a batch, with gradients where they are enabled. Float32, or float64 for such a model.

    Scored are the response's own tokens; the batch's `target_ids` in their place where it has them; and with `pick` other
    than "label", at positions of rejected responses, tokens the network chooses itself (see `choosing`).
    """
    network = base_model(model)
    arranged, counted = layout(network, batch), batch.counted()
    targets = arranged.targets if batch.target_ids is None else batch.target_ids[counted]
    is_rejected = counted.nonzero()[:, 1] > 0 if pick != "label" else None  # column 0 is the chosen response
    beside = (counted, counted.sum(-1), targets, batch.response_weights, is_rejected)
    arranged, (counted, counts, targets, weights, is_rejected) = arranged.to(batch.device, *beside)
    if is_rejected is None:
        values = _label_log_probs(network, arranged, targets)
    else:
        logits = _logits(network, arranged)
        values = token_log_probs(logits, torch.where(is_rejected, own_choice(logits, targets, pick), targets))
    per_token = values.new_zeros(counted.shape).masked_scatter(counted, values)
    weighted = per_token if weights is None else per_token * weights.to(per_token.dtype)
    return ResponseLogProbs(total=weighted.sum(-1), counts=counts, per_token=per_token)


def has_plain_head(model: VLM) -> bool:
    """Whether the log-probs of this model's head can be taken in chunks."""
    network = base_model(model)
    if network.__dict__.get(WHOLE_HEAD):
        return False
    is_linear = type(network.get_output_embeddings()) is torch.nn.Linear
    return is_linear and support_of(network.config.model_type).plain_head


def keep_head_whole(model: VLM) -> None:
    """Have logits made by the head itself from now on: its weights may be there only while it computes."""
    base_model(model).__dict__[WHOLE_HEAD] = True


@torch.no_grad()
def choose(model: VLM, batch: ScoringBatch, layout: Layout = separate_sequences) -> Tensor:
    """The most likely token at every counted response position, given the response up to there. Shape: (B, 1 + K, R).

    Where nothing is counted the response's own token stands.
    """
    network = base_model(model)
    arranged, (ids, counted) = layout(network, batch).to(batch.device, batch.response_ids, batch.counted())
    chosen: Tensor = ids.masked_scatter(counted, _logits(network, arranged).argmax(dim=-1))
    return chosen


def token_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    """log softmax(logits)[target], at least in float32. Shapes: (M, V), (M,) -> (M,)."""
    logits = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    return logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(dim=-1)


def _label_log_probs(network: VLM, arranged: Arranged, targets: Tensor) -> Tensor:
    """The log-prob of each scored token. Shape: (M,)."""
    if has_plain_head(network):
        hidden, _ = _forward(network, arranged, through_head=False)
        return head_log_probs(hidden, network.get_output_embeddings(), targets)
    return token_log_probs(_logits(network, arranged), targets)


def _logits(network: VLM, arranged: Arranged) -> Tensor:
    """Logits at the scored positions only. Shape: (M, V)."""
    return _forward(network, arranged, through_head=True)[1]


def _forward(network: VLM, arranged: Arranged, through_head: bool) -> tuple[Tensor, Tensor]:
    """What the head is given at the scored positions, and what it makes of them: (M, H) and (M, V), or (0, V) without it."""
    picked: list[Tensor] = []

    def pick(_: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0]  # (rows, S, H)
        picked.append(hidden.reshape(-1, hidden.shape[-1])[arranged.predictors])
        return ((picked[0] if through_head else picked[0][:0])[None], *args[1:])

    handle = network.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        logits: Tensor = network(**arranged.inputs, **arranged.images, use_cache=False).logits
    finally:
        handle.remove()
    return picked[0], logits[0]


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


Pick = Literal["label", "argmax", "argmax_not_label"]
PICKS: tuple[str, ...] = get_args(Pick)


def own_choice(logits: Tensor, labels: Tensor, pick: Pick) -> Tensor:
    """Which token is scored at each position. Shapes: logits (M, V), labels (M,) -> (M,).

    `label` is the given token, `argmax` the most likely one, `argmax_not_label` the most likely one that is not given.
    Raises ValueError for any other word.
    """
    if pick not in PICKS:
        raise ValueError(f"rejected_scorer={pick!r} is not known: use one of {', '.join(PICKS)}")
    if pick == "label":
        return labels
    best, second = logits.detach().topk(2, dim=-1).indices.unbind(-1)
    return best if pick == "argmax" else torch.where(best == labels, second, best)
