"""Models with random weights and batches with random tokens, for benchmarks that need a size and not an answer.

Sizes are either those of a configured model (`parallax/models/architectures/*.json`) or the small ones in `SIZES`, which a CPU
can take. Nothing is downloaded; no tokenizer or processor is involved, so such a policy scores and does not encode.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

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


def names() -> list[str]:
    """Models that can be built here."""
    return [*SIZES, *architectures()]


def model_config(name: str) -> Any:
    """The transformers configuration of a model. Raises ValueError for an unknown name."""
    from transformers import AutoConfig

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


def random_pairs(
    config: Any, *, pairs: int, prompt_tokens: int, response_tokens: int, responses: int, seed: int = 0
) -> PairBatch:
    """Pairs of random tokens around one random image each; all prompts and all responses are of one length. On the CPU.

    Raises ValueError where the prompt has no room for its image, or the family does not take images as plain pixels.
    """
    if config.model_type != "llava":
        raise ValueError(f"random images are made for llava only, and this model is {config.model_type}")
    image, vocabulary = int(config.image_seq_length), int(config.get_text_config().vocab_size)
    if prompt_tokens < image + 2:
        raise ValueError(
            f"a prompt of {prompt_tokens} tokens has no room for {image} image tokens; use {image + 2} or more"
        )
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, vocabulary // 2, (pairs, prompt_tokens), generator=generator)
    ids[:, 1 : 1 + image] = config.image_token_id
    answers = torch.randint(3, vocabulary // 2, (pairs, responses, response_tokens), generator=generator)
    side = int(config.vision_config.image_size)
    vision = [{"pixel_values": torch.randn(1, 3, side, side, generator=generator)} for _ in range(pairs)]
    lengths = torch.full((pairs, responses), response_tokens)
    batch = ScoringBatch(ids, torch.full((pairs,), prompt_tokens), answers, lengths, vision)
    reference = torch.zeros(pairs, responses)
    return PairBatch(batch, reference, [f"pair-{number}" for number in range(pairs)], lengths)


def autocast(device: str, dtype: torch.dtype | None) -> Any:
    """Autocast in `dtype`, or nothing for None."""
    return nullcontext() if dtype is None else torch.autocast(device, dtype)
