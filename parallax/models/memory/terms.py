"""The terms of a memory forecast, each a function of a model's shape and the work; `memory_planner.py` says how they add up."""

from __future__ import annotations

from math import ceil

from parallax.models.memory.model_shape import LinearKind, ModelShape
from parallax.models.memory.workload import BYTES, Workload

# -- what is there all the time ----------------------------------------------------------------------------------------


def weight_bytes(shape: ModelShape, work: Workload) -> int:
    """The base model's weights. What full fine-tuning trains has the type of what is trained."""
    frozen = BYTES[work.weights]
    if work.full:
        projector = shape.projector if work.train_projector else 0
        learned = shape.language_parameters + projector
        return learned * BYTES[work.trained] + (shape.vision_and_projector - projector) * frozen
    packed = {
        "none": shape.linear_parameters * frozen,
        "nf4": ceil(shape.linear_parameters * (0.5 + 4 / 64)),
        "int8": shape.linear_parameters + 4 * sum(kind.outputs * kind.count for kind in shape.linears),
    }[work.quantization]
    return packed + (shape.parameters - shape.linear_parameters) * frozen


def trained_parameters(shape: ModelShape, work: Workload) -> int:
    """Parameters that learn: LoRA's A and B of every adapted layer, or the language model; the projector where it is trained."""
    projector = shape.projector if work.train_projector else 0
    if work.full:
        return shape.language_parameters + projector
    return projector + sum(work.rank * (kind.inputs + kind.outputs) * kind.count for kind in _adapted(shape, work))


def optimiser_bytes(trained: int, work: Workload) -> int:
    """Two moments of every trained parameter; 8-bit ones with a float32 scale per 256 elements.

    torch keeps moments in the parameters' type, bitsandbytes in float32. Paged ones count as if they all were on the GPU.
    """
    if work.optimiser.endswith("8bit"):
        return ceil(2 * trained * (1 + 4 / 256))
    return 2 * trained * BYTES[work.trained if work.optimiser == "adamw" else "float32"]


def _adapted(shape: ModelShape, work: Workload) -> list[LinearKind]:
    return [kind for kind in shape.linears if work.targets is None or kind.name in work.targets]


def gathered_bytes(shape: ModelShape, work: Workload) -> int:
    """Two whole layers, embedding, head and the frozen rest in their own type, as sharding holds them during a step."""
    layers = 2 * ceil((weight_bytes(shape, work) - _outside_layers(shape, work)) / shape.layers)
    adapters = 0 if work.full else ceil(2 * trained_parameters(shape, work) * BYTES[work.trained] / shape.layers)
    return layers + adapters + _outside_layers(shape, work)


def _outside_layers(shape: ModelShape, work: Workload) -> int:
    learned = BYTES[work.trained] if work.full else BYTES[work.weights]
    return (shape.embedding + shape.head) * learned + shape.vision_and_projector * BYTES[work.weights]


def cast_bytes(shape: ModelShape, work: Workload, trained: int) -> int:
    """Copies of weights in autocast's type: of trained ones for the whole step, of frozen ones as long as activations."""
    if work.autocast is None:
        return 0
    c = BYTES[work.autocast]
    learned = trained * c if not _same_type(work) else 0
    if work.full or work.weights == work.autocast or work.quantization != "none":
        return learned
    at_once = shape.linear_parameters // (shape.layers if work.checkpointing else 1)
    return learned + (at_once + shape.head) * c


# -- what a forward pass leaves for the backward pass ------------------------------------------------------------------


def _stream(work: Workload) -> int:
    """Bytes of a value of the residual stream: the embedding's type."""
    return BYTES[work.trained if work.full else work.weights]


def layer_bytes(shape: ModelShape, work: Workload) -> int:
    """What autograd keeps of one decoder layer, without checkpointing."""
    c, tokens = work.compute, work.tokens
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = 2 * (shape.hidden * 4 + 4)
    if work.full:
        norms += 2 * shape.hidden * _stream(work)
    seen = _masked_queries(work)
    repeated = query if seen or work.attention == "eager" else key
    joined = query if work.layout == "shared" and work.attention in ("prefix_sdpa", "flex_attention") else 0
    attention = (2 * query + 2 * repeated + joined) * c + (0 if work.attention == "eager" else 4 * shape.heads)
    per_pair_of_tokens = work.rows * work.width * work.width
    squares = work.rows * work.width * seen * c
    if work.attention == "eager":
        squares = per_pair_of_tokens * shape.heads * (4 + (c if c != 4 else 0))
    mlp = 3 * shape.intermediate * c
    return tokens * (norms + attention + mlp + _inputs(shape, work)) + squares


def _inputs(shape: ModelShape, work: Workload) -> int:
    """Bytes per token of what the trained linear layers of one decoder layer have read, and LoRA's inner values."""
    kinds = list(shape.linears) if work.full else _adapted(shape, work)
    of_linear = BYTES[work.autocast] if work.autocast else BYTES[work.weights if work.full else work.trained]
    per_layer = [(kind, kind.count / shape.layers) for kind in kinds]
    inner = 0 if work.full else work.rank * sum(count for _, count in per_layer) * of_linear
    converted = not _same_type(work)
    if not work.full and (converted or work.dropout):
        copy = of_linear + (1 if work.dropout else 0)
        return round(sum(kind.inputs * count * copy for kind, count in per_layer) + inner)
    seen: dict[str, float] = {}
    for kind, count in per_layer:
        shared = kind.reads if not converted else kind.name
        if kind.reads != "attention's output":  # kept by attention itself
            seen[shared] = max(seen.get(shared, 0.0), kind.inputs * max(1.0, count) * of_linear)
    return round(sum(seen.values()) + inner)


def _same_type(work: Workload) -> bool:
    """Whether what is trained computes in the type of the tensors that flow, so that none is converted on the way in."""
    if work.fused and not work.full and not work.dropout and work.quantization == "none":
        return True
    if work.autocast is not None:
        return work.trained == work.autocast
    return work.trained == work.weights


def _masked_queries(work: Workload) -> int:
    """Columns of a row whose attention has an explicit mask."""
    if work.layout == "separate":
        return 0
    return {"sdpa": work.width, "prefix_sdpa": work.width - work.prompt_tokens}.get(work.attention, 0)


def saved_bytes(shape: ModelShape, work: Workload) -> tuple[int, int, int]:
    """Bytes kept of all decoder layers, of one of them, and of what lies around them (without logits)."""
    one, tokens, c = layer_bytes(shape, work), work.tokens, work.compute
    norm = tokens * (shape.hidden * 4 + 4)  # the last one; LoRA's first one sees no gradient
    around = norm + (tokens * shape.hidden * _stream(work) if work.full else 0)
    around += (
        2 * tokens * shape.head_dim * c
        + work.pairs * (1 + work.looks) * work.image_tokens * shape.hidden * BYTES[work.weights]
    )
    if work.full:
        around += work.scored * shape.hidden * c
    around += work.rows * work.width * _masked_queries(work)  # the mask as it was made
    first = 0 if work.full else norm
    if work.checkpointing:
        inputs = shape.layers * tokens * shape.hidden * _stream(work)
        again = tokens * shape.hidden * 4 if _stream(work) == 4 else 0  # kept as the layer's input already
        return inputs, one - again, around
    return shape.layers * one - first, one, around


# -- what comes and goes -----------------------------------------------------------------------------------------------


def logits_bytes(shape: ModelShape, work: Workload) -> int:
    """Logits that are there from the forward pass to the backward pass."""
    scored = work.scored
    if not work.head_chunk:
        return scored * shape.vocabulary * max(4, BYTES[work.weights])
    return scored * shape.vocabulary * work.compute if scored <= work.head_chunk else 0


def beside_head(shape: ModelShape, work: Workload) -> int:
    """Short-lived tensors of the output head.

    In chunks (`head.py`): logits of one chunk unless they are kept, and what `logsumexp` makes of them. Else thrice the
    logits while their log-softmax is differentiated, and themselves in the compute type.
    """
    scored = work.scored
    if not work.head_chunk:
        converted = scored * shape.vocabulary * work.compute if work.compute < 4 else 0
        return 3 * logits_bytes(shape, work) + converted
    own = 0 if scored <= work.head_chunk else work.compute
    return min(scored, work.head_chunk) * shape.vocabulary * (own + (8 if work.compute < 4 else 4))


def around_layer(shape: ModelShape, work: Workload) -> int:
    """Short-lived tensors around the last layer's MLP, where they are largest."""
    c, tokens = work.compute, work.tokens
    backward = 2 * shape.intermediate * c
    if work.checkpointing:  # the recomputed layer's output and the gradient of it
        backward += 2 * shape.hidden * _stream(work)
    forward = 0
    if not work.full and not _same_type(work):  # the down projection's input, as it is and in the adapter's type
        forward = shape.intermediate * (c + BYTES[work.trained]) + 4 * shape.hidden * c
    unpacked = max((k.inputs * k.outputs for k in shape.linears), default=0) * c if work.quantization != "none" else 0
    return tokens * max(backward, forward) + unpacked


def vision_bytes(shape: ModelShape, image_tokens: int, c: int) -> int:
    """A frozen tower that keeps the output of every layer, and one MLP at work."""
    if shape.vision is None:
        return 0
    positions = image_tokens * shape.vision.positions_per_token
    return round(positions * ((shape.vision.layers + 2) * shape.vision.hidden + 2 * shape.vision.intermediate) * c)
