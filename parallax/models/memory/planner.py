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
      compute type: width^2 c per row, or, where the common prompt is attended without a mask (`shared_prefix.py`),
      width times the responses' tokens, and the output once more, put together from its two parts. Eager attention keeps
      the probabilities, heads x width^2, in float32 and in c;
    - MLP: gate, silu(gate) and up, 3 I c;
    - the input of each linear layer whose own weight or adapter is trained. q, k and v read the same tensor, gate and up
      too, and o reads attention's output, so float32 LoRA adds H + H + I. Where the type differs, each layer has a
      converted copy, 5 H + Hq + I, unless the adapter multiplies in the compute type itself (`fused_lora.py`). Dropout
      gives each layer a copy in any case, and a byte per element for the mask;
    - LoRA's inner r values per adapted layer.
  With activation checkpointing: the input of each layer, H s, and everything above for one layer at a time.
- **output head**: logits of the M scored positions. In chunks (`head.py`): in the compute type if one chunk holds all, else of
  one chunk, and four bytes (eight below float32) per logit of a chunk beside them. Else in float32, and three times that while
  they are differentiated.
- **workspace**: the largest of the short-lived tensors: around an MLP, the output head, the vision tower.
- **reference**: nothing with LoRA (the same network without its adapter); a frozen copy with `lora=none` and a live one.
- **several processes**: sharding divides weights, gradients and moments, and
  gathers two layers, embedding and head at a time.

The peak is the largest of the moments in `Plan.moments`. Not counted: the CUDA context, the allocator's fragmentation,
Python and its libraries, the data loader's workers. Counted terms are checked against autograd's own accounting at true
size and against the allocator (tests/models/test_memory_planner.py, benchmarks/memory.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from parallax.models.generation.requests import PART
from parallax.models.memory.model_shape import ModelShape
from parallax.models.memory.terms import (
    around_layer,
    beside_head,
    cast_bytes,
    gathered_bytes,
    logits_bytes,
    optimiser_bytes,
    saved_bytes,
    trained_parameters,
    vision_bytes,
    weight_bytes,
)
from parallax.models.memory.workload import BYTES, Workload

__all__ = ["Plan", "Workload", "plan_generation", "plan_training"]

CACHE_STEP = 64  # tokens by which the key-value cache grows


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


def plan_training(shape: ModelShape, work: Workload) -> Plan:
    """The forecast for one optimiser step of `work`."""
    share = work.processes if work.strategy == "sharded" else 1
    weights = ceil(weight_bytes(shape, work) / share)
    trained = trained_parameters(shape, work)
    adapter = 0 if work.full else ceil(trained * BYTES[work.trained] / share)
    gradients = ceil(trained * BYTES[work.trained] / share)
    optimiser = ceil(optimiser_bytes(trained, work) / share)
    gathered = gathered_bytes(shape, work) if share > 1 else 0
    reference = (
        weight_bytes(shape, replace(work, trained=work.weights)) if work.full and work.reference == "live" else 0
    )
    casts = cast_bytes(shape, work, trained)
    always = weights + adapter + reference + optimiser + gathered
    layers, one_layer, rest = saved_bytes(shape, work)
    logits = logits_bytes(shape, work)
    beside_layer, near_head = around_layer(shape, work), beside_head(shape, work)
    recomputed = one_layer if work.checkpointing else 0
    kept = gradients if work.micro_batches > 1 else 0  # of the micro-batches before this one
    moments = {
        "output head": always + casts + kept + layers + rest + logits + near_head,
        "last layer": always + casts + kept + layers + rest + recomputed + beside_layer,
        "first layer": always + casts + gradients + rest + one_layer + beside_layer,
        "optimiser step": always + gradients,
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
        "activations": activations, "casts": casts if moment != "optimiser step" else 0, "gathered": gathered,
    }  # fmt: skip
    parts["workspace"] = peak - sum(parts.values())
    return Plan(parts, moments, work.width, work.rows, shape.parameters + (0 if work.full else trained), trained)


def plan_generation(shape: ModelShape, work: Workload, rows: int, new_tokens: int, held: int = 0) -> Plan:
    """The forecast for answers to `rows` prompts of `work.prompt_tokens` at once, `new_tokens` each. `held`: bytes beside.

    Worst case: no row ends early. `prefill` reads the prompts, `decoding` writes the last token.
    """
    trained, c = trained_parameters(shape, work), BYTES[work.weights]
    weights, adapter = weight_bytes(shape, work), 0 if work.full else trained * BYTES[work.trained]
    always = weights + adapter + held
    per_column = 2 * rows * shape.kv_heads * shape.head_dim * c  # keys and values of one layer
    read = min(rows, PART)  # prompts that are read at once
    tokens, prompt = read * work.prompt_tokens, work.prompt_tokens
    room = prompt + CACHE_STEP
    final = prompt + CACHE_STEP * (1 + ceil(max(0, new_tokens - CACHE_STEP - 1) / CACHE_STEP))
    inner = tokens * (3 * shape.intermediate + 2 * shape.hidden) * c
    mask = read * prompt * prompt * (1 + c)
    features = tokens and read * work.image_tokens * shape.hidden * c
    moments = {
        "vision tower": always + vision_bytes(shape, read * work.image_tokens, c),
        "prefill": always + shape.layers * per_column * room + features + inner + mask,
        "decoding": always + features + (shape.layers + 1) * per_column * final + rows * shape.vocabulary * (c + 8),
    }
    peak, moment = max(moments.values()), max(moments, key=moments.__getitem__)
    cache = {"prefill": shape.layers * per_column * room, "decoding": shape.layers * per_column * final}.get(moment, 0)
    parts = {"weights": weights, "adapter": adapter, "held": held, "cache": cache}
    parts["workspace"] = peak - sum(parts.values())
    return Plan(parts, moments, prompt + new_tokens, rows, shape.parameters + (0 if work.full else trained), 0)
