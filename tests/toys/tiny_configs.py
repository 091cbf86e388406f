"""Toy-size configurations of image-text-to-text families: two layers, width 32 to 64, images of 56 pixels.

`tiny_config` knows the configured families by hand. The walk over all of transformers' families (`families.py`) shrinks
the default configuration of the others (`shrunken_configs.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig

TILINGS = [[56, 112], [112, 56], [112, 112]]  # (height, width) in pixels of LLaVA-NeXT's toy tilings


@dataclass(frozen=True)
class TinyTokens:
    """Size of the vocabulary and the ids of its control tokens."""

    vocabulary: int = 128
    image: int = 100
    video: int = 101
    vision_start: int = 102
    vision_end: int = 103
    bos: int | None = 1
    eos: int | None = 2
    pad: int | None = 0


def _language(tokens: TinyTokens, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": tokens.vocabulary,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "bos_token_id": tokens.bos,
        "eos_token_id": tokens.eos,
        "pad_token_id": tokens.pad,
        **more,
    }


CLIP = {
    "model_type": "clip_vision_model",
    "image_size": 56,
    "patch_size": 14,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,  # features are taken one layer before the last
    "num_attention_heads": 2,
    "projection_dim": 32,
}


def _llava(tokens: TinyTokens) -> dict[str, Any]:
    return {
        "text_config": _language(tokens, model_type="llama"),
        "vision_config": CLIP,
        "image_token_id": tokens.image,
        "image_seq_length": 16,
    }


def _llava_next(tokens: TinyTokens) -> dict[str, Any]:
    return {
        "text_config": _language(tokens, model_type="mistral", head_dim=16, sliding_window=None),
        "vision_config": CLIP,
        "image_token_id": tokens.image,
        "image_grid_pinpoints": TILINGS,
        "image_seq_length": 16,
    }


def _qwen2_5_vl(tokens: TinyTokens) -> dict[str, Any]:
    return {
        "text_config": _language(
            tokens,
            model_type="qwen2_5_vl_text",
            rope_parameters={"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6},
        ),
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        "image_token_id": tokens.image,
        "video_token_id": tokens.video,
        "vision_start_token_id": tokens.vision_start,
        "vision_end_token_id": tokens.vision_end,
        "tie_word_embeddings": False,
    }


BY_HAND = {"llava": _llava, "llava_next": _llava_next, "qwen2_5_vl": _qwen2_5_vl}


def tiny_config(model_type: str, tokens: TinyTokens | None = None) -> Any:
    """A toy configuration of a family. Raises ValueError for families that are not written down here."""
    if model_type not in BY_HAND:
        raise ValueError(f"there is no toy configuration of {model_type!r}; there are {', '.join(BY_HAND)}")
    return AutoConfig.for_model(model_type, **BY_HAND[model_type](tokens or TinyTokens()))
