"""How many answers fit at once: the memory planner asked about a model that is loaded, before a prompt is encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parallax.models.backbone import base_model
from parallax.models.foreign import VLM
from parallax.models.memory.advice import CLOSE, there
from parallax.models.memory.capacity import largest_generation
from parallax.models.memory.device_memory import device_memory
from parallax.models.memory.model_shape import shape_of
from parallax.models.memory.planner import plan_generation
from parallax.models.memory.workload import Workload

if TYPE_CHECKING:
    from parallax.models.policy import Policy

TEXT_TOKENS = 64  # of a prompt beside its image, where no prompt has been encoded yet


def generation_work(policy: Policy, new_tokens: int) -> Workload:
    """Answers of up to `new_tokens` tokens to the longest prompts that are usual."""
    image = usual_image_tokens(policy)
    rank = int(policy.model.peft_config["default"].r) if policy.has_adapter else 0
    return Workload(
        image + TEXT_TOKENS, image, new_tokens, rank=rank, weights=policy.precision,
        trained="float32" if rank else policy.precision, quantization=quantization_of(policy.model),
    )  # fmt: skip


def rows_that_fit(policy: Policy, new_tokens: int) -> int:
    """Answers of up to `new_tokens` tokens that fit at once by forecast; 1 where not even one does."""
    work, shape = generation_work(policy, new_tokens), shape_of(policy.model)
    have = there(plan_generation(shape, work, 1, new_tokens), device_memory(policy.device))
    return max(1, largest_generation(shape, work, int(CLOSE * have)))


def usual_image_tokens(policy: Policy) -> int:
    """Image tokens of a prompt before one is encoded: as the configuration says; tiles and free sizes at their largest."""
    config = base_model(policy.model).config
    processor = policy.encoder.processor.image_processor
    if hasattr(processor, "merge_size"):
        side = int(processor.patch_size) * int(processor.merge_size)
        return max(1, int(dict(processor.size).get("longest_edge") or side * side) // side**2)
    tiles = 1 + max((p[0] * p[1] for p in getattr(config, "image_grid_pinpoints", None) or []), default=0) // max(
        1, int(getattr(config.vision_config, "image_size", 1) or 1) ** 2
    )
    return int(getattr(config, "image_seq_length", None) or 576) * tiles


def quantization_of(model: VLM) -> str:
    """none | nf4 | int8."""
    settings = getattr(base_model(model).config, "quantization_config", None)
    if settings is None:
        return "none"
    return "nf4" if getattr(settings, "load_in_4bit", False) else "int8"
