"""The default configuration of any image-text-to-text family at toy size, shrunk by the names of its keys.

Widths become 64, layers 2, heads 4, vocabularies 256, wherever in the configuration they stand, so that what has to fit
together still fits. What this rule of thumb gets wrong for a family is set right in `CORRECTIONS`.
"""

from __future__ import annotations

from typing import Any

# What `shrunken_config` sets, by the key's name, wherever it stands in the configuration.
WIDTH, HEADS, HEAD = 64, 4, 16
LEFT_OUT = ("id2label", "label2id", "architectures", "dtype", "transformers_version", "per_layer_config")
SIZES: dict[str, int] = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "embed_dim", "hidden_dim", "projection_dim", "out_hidden_size", "encoder_hidden_size",
         "projector_hidden_size", "vision_embed_dim", "width", "n_embd", "output_dim", "vision_output_dim",
         "vision_hidden_size", "text_hidden_size", "hidden_size_per_layer_input", "cross_attention_hidden_size",
         "multimodal_hidden_size", "image_embed_dim", "output_channels", "projection_output_dim", "output_hidden_size",
         "word_embed_proj_dim", "adapter_in_dim", "adapter_input_size", "projection_hidden_size"),
        WIDTH,
    ),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "mlp_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "ffn_hidden_size",
         "shared_expert_intermediate_size", "projector_input_dim", "projector_output_dim", "adapter_intermediate_size"),
        96,
    ),
    **dict.fromkeys(("moe_intermediate_size", "expert_intermediate_size"), 32),
    **dict.fromkeys(
        ("num_hidden_layers", "num_layers", "depth", "n_layers", "encoder_layers", "decoder_layers", "num_decoder_layers",
         "num_encoder_layers", "n_layer", "num_blocks"),
        2,
    ),
    **dict.fromkeys(
        ("num_attention_heads", "num_heads", "n_head", "n_heads", "attention_heads", "encoder_attention_heads",
         "decoder_attention_heads", "attn_heads"),
        HEADS,
    ),
    **dict.fromkeys(("head_dim", "global_head_dim", "v_head_dim", "qk_nope_head_dim", "d_kv"), HEAD),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "mamba_head_dim", "mamba_d_head"), HEAD),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "mamba_num_heads", "mamba_n_heads"), HEADS),
    **dict.fromkeys(("qk_rope_head_dim", "index_head_dim"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank"), 16),
    **dict.fromkeys(
        ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts"), 4
    ),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "moe_num_shared_experts", "n_shared_experts"), 1),
    "vocab_size": 256,
    "vocab_size_per_layer_input": 256,
    "max_position_embeddings": 1024,
    "num_query_tokens": 4,
    "sliding_window": 64,
}  # fmt: skip


def _mrope(*sections: int) -> dict[str, Any]:
    """Rotary positions of three kinds (time, row, column), split as `sections` say."""
    return {
        "text_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sections)}}
    }


CORRECTIONS: dict[str, dict[str, Any]] = {
    "aria": {"projector_patch_to_query_dict": {16: 4}},
    "cohere_compass": {"text_config": {"rope_parameters": {
        kind: {"rope_type": "default", "rope_theta": 1e4} for kind in ("full_attention", "sliding_attention")}}},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense", "sparse"]}},
    "granite4_vision": {"downsample_rate": "1/2", "deepstack_layer_map": [[-2, 0]]},
    "hunyuan_vl": {"text_config": {"head_dim": 16}},
    "muse_glimmer": {"out_hidden_size": 256},
    "muse_spark": {"out_hidden_size": 256},
    "qwen4_exp": {"text_config": {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16,
                                  "indexer_budget": 16, "indexer_compress_ratio": 4}},
    "step3p7": {"text_config": {"sliding_window": 64}},
    "blip-2": {"image_token_index": 100},
    "instructblip": {"image_token_index": 100},
    "gemma3": {"mm_tokens_per_image": 4},
    "gemma3n": {"text_config": {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "layer_types": 2 * ["sliding_attention",
                "full_attention"], "activation_sparsity_pattern": 4 * [0.0], "intermediate_size": 4 * [96]}},
    "gemma4": {"vision_config": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16,
                                 "num_attention_heads": 4, "num_key_value_heads": 4}},
    "llama4": {"vision_config": {"intermediate_size": 256, "projector_input_dim": 64, "projector_output_dim": 64}},
    "mllama": {"vision_config": {"intermediate_layers_indices": [0], "vision_output_dim": 128, "num_global_layers": 2}},
    **dict.fromkeys(("glm46v", "glm4v", "glmga", "glm_ocr", "qwen2_vl", "paddleocr_vl"), _mrope(2, 3, 3)),
    "ernie4_5_vl_moe": _mrope(3, 3, 2),
    "glm4v_moe": _mrope(1, 1, 2),
    "qwen2_5_omni_thinker": {"vision_start_token_id": 102, "audio_start_token_id": 104, **_mrope(2, 3, 3)},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 102, "audio_start_token_id": 104},
}  # fmt: skip


def shrunken_config(model_type: str, more: dict[str, Any] | None = None) -> Any:
    """The default configuration of any image-text-to-text family, made small by the names of its keys.

    `more`: nested settings that are laid over it.
    """
    from transformers import CONFIG_MAPPING

    cls = CONFIG_MAPPING[model_type]
    settings = _shrunken(cls().to_dict())
    side = (settings.get("vision_config") or {}).get("image_size")
    if settings.get("image_grid_pinpoints") and isinstance(side, int):
        settings["image_grid_pinpoints"] = [[side, 2 * side], [2 * side, side], [2 * side, 2 * side]]
    return cls(**_corrected(_corrected(settings, CORRECTIONS.get(model_type, {})), more or {}))


def _corrected(settings: dict[str, Any], corrections: dict[str, Any]) -> dict[str, Any]:
    """`settings` with the nested `corrections` laid over them."""
    merged = dict(settings)
    for key, value in corrections.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _corrected(merged[key], value) if both else value
    return merged


def _shrunken(settings: dict[str, Any]) -> dict[str, Any]:
    settings = {key: value for key, value in settings.items() if key not in LEFT_OUT}
    layers = next((settings[key] for key in ("num_hidden_layers", "depth", "num_layers") if key in settings), None)
    return {key: _shrunken_value(key, value, layers, settings) for key, value in settings.items()}


def _shrunken_value(key: object, value: object, layers: object, settings: dict[str, Any]) -> Any:
    if not isinstance(key, str):
        return value
    if isinstance(value, dict):
        return _shrunken(value)
    if key in SIZES and isinstance(value, int) and not isinstance(value, bool):
        return min(value, SIZES[key])
    if key in ("num_key_value_heads", "num_global_key_value_heads") and isinstance(value, int):
        return HEADS if value == settings.get("num_attention_heads") else 2
    if key == "image_size" and isinstance(value, int) and isinstance(settings.get("patch_size"), int):
        return 4 * settings["patch_size"]
    if key.endswith(("_token_id", "_token_index")) and isinstance(value, int):
        return value if value < 200 else 100 + sum(map(ord, key)) % 100
    if key == "initializer_range" and isinstance(value, float):
        return max(value, 0.02)  # weights of 1e-10 let nothing through
    if key in ("mrope_section",):
        return [2, 3, 3]
    if key in ("fullatt_block_indexes", "global_attn_indexes", "deepstack_visual_indexes", "cross_attention_layers"):
        return [1]
    if key == "vision_feature_layer" and isinstance(value, list):
        return [-2, -1]
    if isinstance(value, list) and isinstance(layers, int) and len(value) == layers > 2:
        return [value[0], next((item for item in value if item != value[0]), value[-1])]
    return value
