"""How much memory a training step or a generation will need, by calculation: a model's shape and the work → bytes.

Pure arithmetic, so that it can be asked before anything is loaded, and for machines that are not there. What is counted,
for T = rows x width tokens in a forward pass, compute type of c bytes and a residual stream of s bytes:

- **weights**: parameters x bytes of their type; nf4 packs the decoder's linear layers into half a byte plus one float32
  scale per 64 weights, int8 into one byte plus a float32 scale per output.
- **adapter**: r (in + out) for every adapted linear layer. Under autocast every trained weight has a copy in the compute
  type as long as the step lasts (**casts**).
- **gradients** and **optimiser**: one gradient per trained parameter, two moments; 8-bit moments have a float32 scale per
  256 elements.
- **activations**, what autograd keeps of one decoder layer until its backward pass:
    - RMSNorm, twice: its input in float32 (the residual itself if that is float32) and one root per token; when its own
      weight is trained, the normalised input too;
    - attention: q, k, v and the output (Hq + 2 Hkv + Hq) c and one float32 per head (flash and memory-efficient kernels
      recompute the rest). With a mask of our own k and v are repeated to all heads, and the mask is kept as numbers of the
      compute type: width^2 c per row, or, where the common prompt is attended without a mask (`prefix_attention.py`),
      width times the responses' tokens, and the output once more, put together from its two parts. Eager attention keeps
      the probabilities, heads x width^2, in float32 and in c;
    - MLP: gate, silu(gate) and up, 3 I c;
    - the input of each linear layer whose own weight or adapter is trained. q, k and v read the same tensor, gate and up
      too, and o reads attention's output, so float32 LoRA adds H + H + I. Where the type differs, each layer has a
      converted copy, 5 H + Hq + I, unless the adapter multiplies in the compute type itself (`fused_lora.py`). Dropout
      gives each layer a copy in any case, and a byte per element for the mask;
    - LoRA's inner r values per adapted layer.
  With activation checkpointing: the input of each layer, H s, and everything above for one layer at a time.
- **output head**: logits of the M scored positions in float32, and three times that while they are differentiated.
- **workspace**: the largest of the short-lived tensors: around an MLP, the output head, the vision tower, in the optimiser.
- **reference**: nothing with LoRA (the same network without its adapter); a frozen copy with `lora=none` and a live one.
- **several processes**: DDP keeps gradients once more in its buckets; sharding divides weights, gradients and moments, and
  gathers two layers, embedding and head at a time.

The peak is the largest of the moments in `Plan.moments`. Not counted: the CUDA context, the allocator's fragmentation,
Python and its libraries, the data loader's workers. Counted terms are checked against autograd's own accounting at true
size and against the allocator (tests/models/test_memory_planner.py, benchmarks/memory.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from parallax.models.model_shape import LinearKind, ModelShape

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
CACHE_STEP = 64  # tokens by which the key-value cache grows


@dataclass(frozen=True, slots=True)
class Work:
    """What is done with the model. Token counts are those of the longest rows.

    Attributes:
        prompt_tokens: P, image tokens included.
        image_tokens: of the prompt.
        response_tokens: R, of the longest response.
        responses: 1 + K per pair.
        pairs: in one forward pass (micro-batch).
        micro_batches: forward passes per optimiser step and process.
        layout: separate | shared.
        weights: type of the base model's weights.
        autocast: type of autocast, or None.
        trained: type of the weights that learn.
        quantization: none | nf4 | int8.
        rank: of LoRA; 0 trains the language model in full.
        targets: names of adapted linear layers; None for all of the decoder.
        dropout: whether LoRA dropout is on.
        optimiser: adamw | adamw_8bit | paged_adamw | paged_adamw_8bit.
        checkpointing: activations are recomputed.
        attention: sdpa | prefix_sdpa (a shared prompt without a mask) | eager | flash_attention_2 | flex_attention.
        fused: LoRA layers compute as in `fused_lora.py`.
        reference: cached | live | none.
        strategy: single | ddp | sharded.
        processes: how many, 1 or more.
        on_gpu: torch's optimiser then works on all tensors at once and needs room for it.
        head_chunk: scored positions the output head takes at once; 0 for all.
        train_projector: the projector is trained too.
    """

    prompt_tokens: int
    image_tokens: int
    response_tokens: int
    responses: int = 2
    pairs: int = 1
    micro_batches: int = 1
    layout: str = "separate"
    weights: str = "float32"
    autocast: str | None = None
    trained: str = "float32"
    quantization: str = "none"
    rank: int = 0
    targets: tuple[str, ...] | None = None
    dropout: bool = False
    optimiser: str = "adamw"
    checkpointing: bool = False
    attention: str = "sdpa"
    reference: str = "cached"
    strategy: str = "single"
    processes: int = 1
    on_gpu: bool = False
    head_chunk: int = 0
    fused: bool = False
    train_projector: bool = False

    def __post_init__(self) -> None:
        allowed = {
            "layout": ("separate", "shared"),
            "quantization": ("none", "nf4", "int8"),
            "optimiser": ("adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"),
            "attention": ("sdpa", "prefix_sdpa", "eager", "flash_attention_2", "flex_attention"),
            "reference": ("cached", "live", "none"),
            "strategy": ("single", "ddp", "sharded"),
        }
        for name, words in allowed.items():
            if getattr(self, name) not in words:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not known to the memory planner; use {', '.join(words)}"
                )
        for name in ("prompt_tokens", "response_tokens", "responses", "pairs", "micro_batches", "processes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")

    @property
    def rows(self) -> int:
        return self.pairs if self.layout == "shared" else self.pairs * self.responses

    @property
    def width(self) -> int:
        """Tokens of a row."""
        several = self.responses if self.layout == "shared" else 1
        return self.prompt_tokens + several * self.response_tokens

    @property
    def tokens(self) -> int:
        return self.rows * self.width

    @property
    def compute(self) -> int:
        """Bytes of a value in matrix products."""
        return BYTES[self.autocast or self.weights]

    @property
    def full(self) -> bool:
        return self.rank == 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A forecast in bytes. `parts` add up to `peak`; `moments` are the candidates for it and `moment` names the largest."""

    parts: dict[str, int]
    moments: dict[str, int]
    tokens_per_row: int
    rows: int
    parameters: int
    trained: int

    @property
    def peak(self) -> int:
        return max(self.moments.values())

    @property
    def moment(self) -> str:
        return max(self.moments, key=self.moments.__getitem__)

    @property
    def resident(self) -> int:
        """What is there all the time: weights, adapter, reference."""
        return sum(self.parts[name] for name in ("weights", "adapter", "reference") if name in self.parts)

    def as_data(self) -> dict[str, Any]:
        """Plain data for a JSON file, in bytes."""
        return {
            "peak_bytes": self.peak, "moment": self.moment, "parts_bytes": dict(self.parts), "moments_bytes": dict(self.moments),
            "rows": self.rows, "tokens_per_row": self.tokens_per_row, "parameters": self.parameters, "trained": self.trained,
        }  # fmt: skip


def plan_training(shape: ModelShape, work: Work) -> Plan:
    """The forecast for one optimiser step of `work`."""
    share = work.processes if work.strategy == "sharded" else 1
    weights = ceil(weight_bytes(shape, work) / share)
    trained = trained_parameters(shape, work)
    adapter = 0 if work.full else ceil(trained * BYTES[work.trained] / share)
    gradients = ceil(trained * BYTES[work.trained] / share)
    optimiser = ceil(optimiser_bytes(trained, work) / share)
    gathered = _gathered(shape, work) if share > 1 else 0
    buckets = gradients if work.strategy == "ddp" and work.processes > 1 else 0
    reference = (
        weight_bytes(shape, replace(work, trained=work.weights)) if work.full and work.reference == "live" else 0
    )
    casts = _casts(shape, work, trained)
    always = weights + adapter + reference + optimiser + gathered + buckets
    layers, one_layer, rest = _saved(shape, work)
    logits = _logits(shape, work)
    around_layer, around_head = _around_layer(shape, work), 3 * logits + _logits_in_compute_type(shape, work)
    recomputed = one_layer if work.checkpointing else 0
    kept = gradients if work.micro_batches > 1 else 0  # of the micro-batches before this one
    moments = {
        "output head": always + casts + kept + layers + rest + logits + around_head,
        "last layer": always + casts + kept + layers + rest + recomputed + around_layer,
        "first layer": always + casts + gradients + rest + one_layer + around_layer,
        "optimiser step": always + gradients + _around_optimiser(trained, work, share),
        "vision tower": always + casts + kept + vision_bytes(shape, work.pairs * work.image_tokens, work.compute),
    }
    peak, moment = max(moments.values()), max(moments, key=moments.__getitem__)
    activations = {
        "output head": layers + rest + logits,
        "last layer": layers + rest + recomputed,
        "first layer": rest + one_layer,
    }.get(moment, 0)
    with_gradients = gradients if moment in ("first layer", "optimiser step") else kept
    parts = {
        "weights": weights, "adapter": adapter, "reference": reference, "gradients": with_gradients, "optimiser": optimiser,
        "activations": activations, "casts": casts if moment != "optimiser step" else 0, "gathered": gathered + buckets,
    }  # fmt: skip
    parts["workspace"] = peak - sum(parts.values())
    return Plan(parts, moments, work.width, work.rows, shape.parameters + (0 if work.full else trained), trained)


def plan_generation(shape: ModelShape, work: Work, rows: int, new_tokens: int, held: int = 0) -> Plan:
    """The forecast for answers to `rows` prompts of `work.prompt_tokens` at once, `new_tokens` each. `held`: bytes beside.

    Worst case: no row ends early. `prefill` reads the prompts, `decoding` writes the last token.
    """
    trained, c = trained_parameters(shape, work), BYTES[work.weights]
    weights, adapter = weight_bytes(shape, work), 0 if work.full else trained * BYTES[work.trained]
    always = weights + adapter + held
    per_column = 2 * rows * shape.kv_heads * shape.head_dim * c  # keys and values of one layer
    tokens, prompt = rows * work.prompt_tokens, work.prompt_tokens
    room = prompt + CACHE_STEP
    final = prompt + CACHE_STEP * (1 + ceil(max(0, new_tokens - CACHE_STEP - 1) / CACHE_STEP))
    inner = tokens * (3 * shape.intermediate + 2 * shape.hidden) * c
    mask = rows * prompt * prompt * (1 + c)
    features = tokens and rows * work.image_tokens * shape.hidden * c
    moments = {
        "vision tower": always + vision_bytes(shape, rows * work.image_tokens, c),
        "prefill": always + shape.layers * per_column * room + features + inner + mask,
        "decoding": always + features + (shape.layers + 1) * per_column * final + rows * shape.vocabulary * (c + 8),
    }
    peak, moment = max(moments.values()), max(moments, key=moments.__getitem__)
    cache = {"prefill": shape.layers * per_column * room, "decoding": shape.layers * per_column * final}.get(moment, 0)
    parts = {"weights": weights, "adapter": adapter, "held": held, "cache": cache}
    parts["workspace"] = peak - sum(parts.values())
    return Plan(parts, moments, prompt + new_tokens, rows, shape.parameters + (0 if work.full else trained), 0)


# -- what is there all the time ----------------------------------------------------------------------------------------


def weight_bytes(shape: ModelShape, work: Work) -> int:
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


def trained_parameters(shape: ModelShape, work: Work) -> int:
    """Parameters that learn: LoRA's A and B of every adapted layer, or the language model; the projector where it is trained."""
    projector = shape.projector if work.train_projector else 0
    if work.full:
        return shape.language_parameters + projector
    return projector + sum(work.rank * (kind.inputs + kind.outputs) * kind.count for kind in _adapted(shape, work))


def optimiser_bytes(trained: int, work: Work) -> int:
    """Two moments of every trained parameter; 8-bit ones with a float32 scale per 256 elements."""
    if work.optimiser.endswith("8bit"):
        return ceil(2 * trained * (1 + 4 / 256))
    return 2 * trained * BYTES[work.trained]


def _adapted(shape: ModelShape, work: Work) -> list[LinearKind]:
    return [kind for kind in shape.linears if work.targets is None or kind.name in work.targets]


def _gathered(shape: ModelShape, work: Work) -> int:
    """Two whole layers, embedding, head and the frozen rest in their own type, as sharding holds them during a step."""
    layers = 2 * ceil((weight_bytes(shape, work) - _outside_layers(shape, work)) / shape.layers)
    adapters = 0 if work.full else ceil(2 * trained_parameters(shape, work) * BYTES[work.trained] / shape.layers)
    return layers + adapters + _outside_layers(shape, work)


def _outside_layers(shape: ModelShape, work: Work) -> int:
    learned = BYTES[work.trained] if work.full else BYTES[work.weights]
    return (shape.embedding + shape.head) * learned + shape.vision_and_projector * BYTES[work.weights]


def _casts(shape: ModelShape, work: Work, trained: int) -> int:
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


def _stream(work: Work) -> int:
    """Bytes of a value of the residual stream: the embedding's type."""
    return BYTES[work.trained if work.full else work.weights]


def layer_bytes(shape: ModelShape, work: Work) -> int:
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


def _inputs(shape: ModelShape, work: Work) -> int:
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


def _same_type(work: Work) -> bool:
    """Whether what is trained computes in the type of the tensors that flow, so that none is converted on the way in."""
    if work.fused and not work.full and not work.dropout and work.quantization == "none":
        return True
    if work.autocast is not None:
        return work.trained == work.autocast
    return work.trained == work.weights


def _masked_queries(work: Work) -> int:
    """Columns of a row whose attention has an explicit mask."""
    if work.layout == "separate":
        return 0
    return {"sdpa": work.width, "prefix_sdpa": work.width - work.prompt_tokens}.get(work.attention, 0)


def _saved(shape: ModelShape, work: Work) -> tuple[int, int, int]:
    """Bytes kept of all decoder layers, of one of them, and of what lies around them (without logits)."""
    one, tokens, c = layer_bytes(shape, work), work.tokens, work.compute
    norm = tokens * (shape.hidden * 4 + 4)  # the last one; LoRA's first one sees no gradient
    around = norm + (tokens * shape.hidden * _stream(work) if work.full else 0)
    around += 2 * tokens * shape.head_dim * c + work.pairs * work.image_tokens * shape.hidden * BYTES[work.weights]
    if work.full:
        around += work.pairs * work.responses * work.response_tokens * shape.hidden * c
    around += work.rows * work.width * _masked_queries(work)  # the mask as it was made
    first = 0 if work.full else norm
    if work.checkpointing:
        inputs = shape.layers * tokens * shape.hidden * _stream(work)
        again = tokens * shape.hidden * 4 if _stream(work) == 4 else 0  # kept as the layer's input already
        return inputs, one - again, around
    return shape.layers * one - first, one, around


# -- what comes and goes -----------------------------------------------------------------------------------------------


def _logits(shape: ModelShape, work: Work) -> int:
    return _head_rows(work) * shape.vocabulary * max(4, BYTES[work.weights])


def _logits_in_compute_type(shape: ModelShape, work: Work) -> int:
    return _head_rows(work) * shape.vocabulary * work.compute if work.compute < 4 else 0


def _head_rows(work: Work) -> int:
    scored = work.pairs * work.responses * work.response_tokens
    return min(scored, work.head_chunk) if work.head_chunk else scored


def _around_layer(shape: ModelShape, work: Work) -> int:
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


def _around_optimiser(trained: int, work: Work, share: int) -> int:
    """torch's optimiser on a GPU works on all tensors at once: the root of the second moment of every parameter."""
    if work.optimiser == "adamw" and work.on_gpu:
        return ceil(trained * BYTES[work.trained] / share)
    return 0


def vision_bytes(shape: ModelShape, image_tokens: int, c: int) -> int:
    """A frozen tower that keeps the output of every layer, and one MLP at work."""
    if shape.vision is None:
        return 0
    positions = image_tokens * shape.vision.positions_per_token
    return round(positions * ((shape.vision.layers + 2) * shape.vision.hidden + 2 * shape.vision.intermediate) * c)
