"""Models with random weights and batches with random tokens, for benchmarks that need a size and not an answer.

Sizes are either those of a configured model (`parallax/models/architectures/*.json`) or the small ones in `SIZES`, which a CPU
can take. Nothing is downloaded; no tokenizer or processor is involved, so such a policy scores and does not encode.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from parallax.models.batch import PairBatch, ScoringBatch
from parallax.models.fused_lora import fuse
from parallax.models.loading import layout_for, train_language_model
from parallax.models.lora import add_lora
from parallax.models.policy import Policy
from parallax.models.true_size import architectures, config_of
from parallax.settings.groups import Lora
from parallax.settings.shipped import shipped

CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4,
    "num_attention_heads": 4, "image_size": 336, "patch_size": 14, "projection_dim": 256,
}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {  # name -> sizes of the language model
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 172, "vocab_size": 400},
    "20m": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 1024, "vocab_size": 8000},
    "60m": {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 1376, "vocab_size": 32064},
}  # fmt: skip


TINY_QWEN: dict[str, Any] = {  # what is laid over Qwen2.5-VL-7B's sizes
    "image_token_id": 396, "video_token_id": 397, "vision_start_token_id": 398, "vision_end_token_id": 399,
    "text_config": {
        "model_type": "qwen2_5_vl_text", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 172, "vocab_size": 400,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
    },
    "vision_config": {
        "depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "out_hidden_size": 64,
        "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112, "fullatt_block_indexes": [1],
    },
}  # fmt: skip


def names() -> list[str]:
    """Models that can be built here."""
    return [*SIZES, "tiny_qwen", *architectures()]


def model_config(name: str) -> Any:
    """The transformers configuration of a model. Raises ValueError for an unknown name."""
    from transformers import AutoConfig

    if name == "tiny_qwen":
        return AutoConfig.for_model(**{**config_of("qwen25_vl_7b").to_dict(), **TINY_QWEN})
    if name not in SIZES:
        return config_of(name)
    language = {"model_type": "llama", "max_position_embeddings": 8192, **SIZES[name]}
    language.setdefault("num_key_value_heads", language["num_attention_heads"])
    vision = {**CLIP, "image_size": 56, "hidden_size": 64, "intermediate_size": 128} if name == "tiny" else CLIP
    return AutoConfig.for_model(
        "llava", image_token_id=language["vocab_size"] - 1, image_seq_length=(vision["image_size"] // 14) ** 2,
        vision_feature_layer=-2, vision_feature_select_strategy="default", projector_hidden_act="gelu",
        tie_word_embeddings=False, text_config=language, vision_config=vision,
    )  # fmt: skip


def random_policy(
    name: str,
    *,
    rank: int = 64,
    layout: str = "separate",
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    checkpointing: bool = False,
    fused: bool = False,
) -> Policy:
    """A policy of this size in training mode, its weights drawn on the device. `rank` 0 trains the language model in full."""
    from transformers import AutoModelForImageTextToText

    kernel = "sdpa" if attention in ("prefix_sdpa", "flex_attention") else attention
    config = model_config(name)
    torch.manual_seed(0)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = AutoModelForImageTextToText.from_config(config, attn_implementation=kernel)
    finally:
        torch.set_default_dtype(usual)
    model.to(device=device, dtype=dtype).requires_grad_(False)
    if rank:
        model = add_lora(model, shipped(Lora, r=rank), seed=0)
        if fused:
            fuse(model)
    else:
        train_language_model(model, [])
    encoder: Any = None  # there is no tokenizer
    arranged = layout_for(layout, model, "auto" if attention == "prefix_sdpa" else attention)
    policy = Policy(model.to(device), encoder, name=name, layout=arranged, adapter_is_fresh=bool(rank))
    policy.for_preference_training()
    policy.activation_checkpointing(checkpointing)
    return policy


def image_tokens(config: Any, pixels: int = 1_003_520) -> int:
    """Tokens of an image in the prompt; in families of free size those of an image of so many pixels."""
    if config.model_type == "llava":
        return int(config.image_seq_length)
    return pixels // (config.vision_config.patch_size * config.vision_config.spatial_merge_size) ** 2


def random_pairs(
    config: Any,
    *,
    pairs: int,
    prompt_tokens: int,
    response_tokens: int,
    responses: int,
    image: int | None = None,
    lengths: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
) -> PairBatch:
    """Pairs of random tokens around one random image each. On the CPU.

    Args:
        image: tokens of the image; None = those of `image_tokens`.
        lengths: of the prompts (pairs,) and of the responses (pairs, responses); None: all are of the full length.

    Raises ValueError where the prompt has no room for its image, or the family is neither LLaVA nor Qwen2.5-VL.
    """
    if config.model_type not in ("llava", "qwen2_5_vl"):
        raise ValueError(f"random images are made for llava and qwen2_5_vl, and this model is {config.model_type}")
    image = image or image_tokens(config)
    vocabulary = int(config.get_text_config().vocab_size)
    if prompt_tokens < image + 3:
        raise ValueError(
            f"a prompt of {prompt_tokens} tokens has no room for {image} image tokens; use {image + 3} or more"
        )
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, vocabulary // 2, (pairs, prompt_tokens), generator=generator)
    ids[:, 2 : 2 + image] = config.image_token_id
    more = {}
    if config.model_type == "qwen2_5_vl":
        ids[:, 1], ids[:, 2 + image] = config.vision_start_token_id, config.vision_end_token_id
        more["mm_token_type_ids"] = (ids == config.image_token_id).long()
    answers = torch.randint(3, vocabulary // 2, (pairs, responses, response_tokens), generator=generator)
    vision = [_random_image(config, image, generator) for _ in range(pairs)]
    asked, said = lengths or (
        torch.full((pairs,), prompt_tokens),
        torch.full((pairs, responses), response_tokens),
    )
    batch = ScoringBatch(ids, asked, answers, said, vision, more)
    reference = torch.zeros(pairs, responses)
    return PairBatch(batch, reference, [f"pair-{number}" for number in range(pairs)], said)


def _random_image(config: Any, tokens: int, generator: torch.Generator) -> dict[str, Tensor]:
    vision = config.vision_config
    if config.model_type == "llava":
        return {"pixel_values": torch.randn(1, 3, vision.image_size, vision.image_size, generator=generator)}
    rows = max(number for number in range(1, int(tokens**0.5) + 1) if tokens % number == 0)
    merge = int(vision.spatial_merge_size)
    width = 3 * vision.temporal_patch_size * vision.patch_size**2
    patches = torch.randn(tokens * merge**2, width, generator=generator)
    return {"pixel_values": patches, "image_grid_thw": torch.tensor([[1, rows * merge, tokens // rows * merge]])}


def autocast(device: str, dtype: torch.dtype | None) -> Any:
    """Autocast in `dtype`, or nothing for None."""
    return nullcontext() if dtype is None else torch.autocast(device, dtype)
