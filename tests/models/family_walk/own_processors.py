"""Toy processors of families beside those of the toy checkpoints: their own classes, set to small images.

Control tokens are the ones that a family's processor looks for. The chat template is one for all: what stands around turns
differs between families, and nothing in the walk depends on it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import transformers
from transformers import PreTrainedTokenizerFast
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

from tests.toys.recipes import PIXELS, PIXELS_16, RECIPES, SIDE, Recipe, _template
from tests.toys.tiny_configs import TILINGS

Settings = Mapping[str, Any]


def recipe(
    model_type: str,
    image: str,
    *tokens: str,
    seen: str = "",
    around: tuple[str, str] = ("", ""),
    like: str = "",
    images: Settings | None = None,
    videos: Settings | None = None,
    processor: Settings | None = None,
    named: Mapping[str, str] | None = None,
    config: Settings | None = None,
    settings: Settings | None = None,
) -> Recipe:
    """`image` stands for an image in a chat, between `around`; `seen` is the token whose place features take, if another.

    `like`: the family whose Auto classes make the processor, if another. `images`, `videos` and `processor` are settings of
    these classes, the rest as in `Recipe`.
    """
    template = _template(
        "".join((around[0], image, around[1])), "user: ", "assistant: ", "<end>", "assistant: ", "<bos>"
    )
    specials = ("<pad>", "<bos>", "<end>", image, seen, *around, *(named or {}).values(), *tokens)
    return Recipe(
        tuple(token for token in dict.fromkeys(specials) if token), "<bos>", "<end>", "<pad>", image,
        partial(_processor, like or model_type, template, images or {}, videos or {}, processor or {}),
        named=named or {}, config={"image_token_id": seen or image, **(config or {})}, settings=settings or {},
    )  # fmt: skip


def _processor(
    model_type: str,
    template: str,
    images: Settings,
    videos: Settings,
    more: Settings,
    tokenizer: PreTrainedTokenizerFast,
) -> Any:
    cls = getattr(transformers, PROCESSOR_MAPPING_NAMES[model_type])
    wanted = inspect.signature(cls.__init__).parameters
    parts: dict[str, tuple[Any, Settings]] = {
        "image_processor": (IMAGE_PROCESSOR_MAPPING_NAMES, images),
        "video_processor": (VIDEO_PROCESSOR_MAPPING_NAMES, videos),
        "feature_extractor": (FEATURE_EXTRACTOR_MAPPING_NAMES, {}),
    }
    made = {name: _made(kind[model_type], own) for name, (kind, own) in parts.items() if name in wanted}
    return cls(tokenizer=tokenizer, chat_template=template, **made, **more)


def _made(name: Any, settings: Settings) -> Any:
    """The class that an Auto mapping names, with these settings."""
    return getattr(transformers, name if isinstance(name, str) else name.get("torchvision") or name["pil"])(**settings)


SMALL: Settings = {"vision_config.image_size": 56, "vision_config.patch_size": 14}
CROPS: Settings = {"size": SIDE, "crop_to_patches": True, "min_patches": 1, "max_patches": 4}
QWEN: Settings = {
    "around": ("<|vision_start|>", "<|vision_end|>"), "named": {"video_token": "<|video_pad|>"}, "images": {"size": PIXELS},
    "config": {"video_token_id": "<|video_pad|>", "vision_start_token_id": "<|vision_start|>",
               "vision_end_token_id": "<|vision_end|>"},
}  # fmt: skip
QWEN_14, QWEN_16 = (
    {**QWEN, "images": {"size": size, "patch_size": patch}} for size, patch in ((PIXELS, 14), (PIXELS_16, 16))
)
OMNI: Settings = {
    "image": "<|IMAGE|>", "around": ("<|vision_bos|>", "<|vision_eos|>"),
    "named": {f"{kind}_token": f"<|{kind}|>" for kind in (
        "video", "audio", "vision_bos", "vision_eos", "audio_bos", "audio_eos")},
    "config": {"video_token_id": "<|video|>", "audio_token_id": "<|audio|>", "vision_start_token_id": "<|vision_bos|>",
               "audio_start_token_id": "<|audio_bos|>"},
}  # fmt: skip
GLM: Settings = {
    "around": ("<|begin_of_image|>", "<|end_of_image|>"), "images": {"size": PIXELS},
    "named": {"video_token": "<|video|>", "start_video": "<|begin_of_video|>", "end_video": "<|end_of_video|>"},
    "config": {"video_token_id": "<|video|>", "image_start_token_id": "<|begin_of_image|>",
               "image_end_token_id": "<|end_of_image|>",
               "video_start_token_id": "<|begin_of_video|>", "video_end_token_id": "<|end_of_video|>"},
}  # fmt: skip
PIXTRAL: Settings = {
    "images": {"size": {"longest_edge": 112}}, "processor": {"patch_size": 14, "spatial_merge_size": 2},
    "named": {"image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"},
    "settings": {"vision_config.image_size": 112, "vision_config.patch_size": 14, "spatial_merge_size": 2},
}  # fmt: skip
LLAVA: Settings = {
    "processor": {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    "settings": {**SMALL, "image_seq_length": 16},
}
GEMMA_4: Settings = {
    "images": {"max_soft_tokens": 70}, "config": {"boi_token_id": "<boi>", "eoi_token_id": "<eoi>", "audio_token_id": "<audio>"},
    "named": {"boi_token": "<boi>", "eoi_token": "<eoi>", "audio_token": "<audio>", "boa_token": "<boa>", "eoa_token": "<eoa>"},
    "settings": {"text_config.vocab_size_per_layer_input": 512},
}  # fmt: skip
MUSE: Settings = {
    "images": {"max_image_tokens": 16}, "config": {"image_token_id": "<|patch|>"},
    "named": {"image_start_token": "<|image_start|>", "image_end_token": "<|image_end|>", "video_token": "<|video|>"},
}  # fmt: skip
MINICPM: Settings = {
    "image": "<image>", "images": {"scale_resolution": 64, "max_slice_nums": 4, "patch_size": 16},
    "named": {"video_token": "<video>", "image_start_token": "<im>", "image_end_token": "</im>",
           "slice_start_token": "<slice>", "slice_end_token": "</slice>",
           "image_id_start_token": "<image_id>", "image_id_end_token": "</image_id>"},
}  # fmt: skip
ROWS = tuple(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5))
TABLE: dict[str, Any] = {
    "aria": {"image": "<image>", "images": {"max_image_size": 490}, "settings": {
        "vision_config.image_size": 490, "vision_config.patch_size": 14, "projector_patch_to_query_dict": {1225: 128}}},
    "aya_vision": {
        "image": "<image>", "seen": "<|IMG_PATCH|>", "images": CROPS, "settings": {**SMALL, "downsample_factor": 2},
        "processor": {"patch_size": 14, "img_size": 56, "downsample_factor": 2},
        "named": {"start": "<|START_OF_IMG|>", "end": "<|END_OF_IMG|>", "line": "<|IMG_LINE_BREAK|>", "whole": "TILE_GLOBAL"}},
    "cohere2_vision": {
        "image": "<image>", "images": {**CROPS, "patch_size": 2}, "settings": {**SMALL, "downsample_factor": 2},
        "named": {"boi_token": "<boi>", "eoi_token": "<eoi>", "img_line_break_token": "<line>"}},
    "cohere_compass": {**QWEN_16, "image": "<|IMAGE_PAD|>", "around": ("<|VISION_START|>", "<|VISION_END|>"),
                       "named": {"video_token": "<|VIDEO_PAD|>"}, "config": {"video_token_id": "<|VIDEO_PAD|>"}},
    "cosmos3_edge": {**QWEN_16, "image": "<|image_pad|>"},
    "cosmos3_omni": {**QWEN_16, "image": "<|image_pad|>", "like": "qwen3_vl"},
    "deepseek_vl": {
        "image": "<image_placeholder>", "images": {"size": SIDE}, "processor": {"num_image_tokens": 16}, "settings": SMALL},
    "deepseek_vl_hybrid": {
        "image": "<image_placeholder>", "images": {"size": SIDE, "high_res_size": {"height": 64, "width": 64}},
        "processor": {"num_image_tokens": 16}, "settings": SMALL},
    "ernie4_5_vl_moe": {
        "image": "<|IMAGE_PLACEHOLDER|>", "around": ("<|IMAGE_START|>", "<|IMAGE_END|>"),
        "images": {"size": PIXELS}, "videos": {"draw_on_frames": False},
        "named": {"image_start_token": "<|IMAGE_START|>", "image_end_token": "<|IMAGE_END|>", "video_token": "<|VIDEO|>",
               "video_start_token": "<|VIDEO_START|>", "video_end_token": "<|VIDEO_END|>"},
        "config": {"image_start_token_id": "<|IMAGE_START|>", "image_end_token_id": "<|IMAGE_END|>",
                "video_token_id": "<|VIDEO|>", "video_start_token_id": "<|VIDEO_START|>", "video_end_token_id": "<|VIDEO_END|>"}},
    "exaone4_5": {**QWEN_14, "image": "<|image_pad|>"},
    "gemma4": {**GEMMA_4, "image": "<image_soft_token>"},
    "gemma4_unified": {**GEMMA_4, "image": "<image_soft_token>",
                       "settings": {"vision_config.mm_embed_dim": 64, "vision_config.output_proj_dims": 64}},
    "fast_vlm": {
        **LLAVA, "image": "<image>", "like": "llava",
        "images": {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}},
        "processor": {"patch_size": 32, "vision_feature_select_strategy": "full"},
        "settings": {"image_seq_length": 4, "vision_config.architecture": "test_resnet", "vision_config.hidden_size": 96,
                     "vision_config.model_args": None}},
    "gemma3n": {
        **GEMMA_4, "image": "<image_soft_token>",
        "images": {"size": {"height": 64, "width": 64}}, "processor": {"image_seq_length": 4},
        "settings": {
            "vision_soft_tokens_per_image": 4, "vision_config.architecture": "test_resnet", "vision_config.hidden_size": 96,
            "vision_config.vocab_offset": 512, "audio_config.vocab_offset": 640, "text_config.vocab_size_per_layer_input": 512}},
    "glm46v": {**GLM, "image": "<|image|>"},
    "glm4v_moe": {**GLM, "image": "<|image|>", "like": "glm4v"},
    "glm_ocr": {**GLM, "image": "<|image|>", "like": "glm46v"},
    "glmga": {**GLM, "image": "<|image|>", "like": "glm46v"},
    "granite4_vision": {
        "image": "<image>", "images": {"size": {"shortest_edge": 56}, "crop_size": SIDE, "image_grid_pinpoints": TILINGS},
        "processor": {"patch_size": 14, "vision_feature_select_strategy": "full", "downsample_rate": "1/2"},
        "settings": {**SMALL, "image_grid_pinpoints": TILINGS}},
    "granite_docling": {
        "image": "<image>", "images": CROPS, "processor": {"image_seq_len": 4},
        "settings": {**SMALL, "vision_config.scale_factor": 2},
        "named": {"around": "<fake_token_around_image>", "whole": "<global-img>", **{row[1:-1]: row for row in ROWS}}},
    "hunyuan_vl": {
        "image": "<image>", "around": ("<im_start>", "<im_end>"), "images": {"size": PIXELS_16},
        "named": {"image_start_token": "<im_start>", "image_end_token": "<im_end>"},
        "settings": {"text_config.rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2, 2]}}},
    "hyperclovax_vision_v2": {**QWEN_14, "image": "<|image_pad|>"},
    "idefics2": {
        "image": "<image>", "images": {"size": {"shortest_edge": 28, "longest_edge": 56}}, "processor": {"image_seq_len": 4},
        "named": {"image_boundary_token": "<fake_token_around_image>", "end_of_utterance_token": "<end_of_utterance>"},
        "settings": {**SMALL, "perceiver_config.resampler_n_latents": 4}},
    "janus": {"image": "<image>", "images": {"size": SIDE}, "processor": {"num_image_tokens": 16}, "settings": SMALL,
                  "named": {"boi_token": "<boi>", "eoi_token": "<eoi>"}},
    "kimi_k25": {"image": "<|media_pad|>", "named": {"video_token": "<|video|>"},
                     "images": {"size": {"max_height": 112, "max_width": 112}, "max_patches": 64},
                 "settings": {"text_config.head_dim": 8}},
    "lfm2_vl": {
        "image": "<image>",
        "images": {"tile_size": 64, "min_tiles": 2, "max_tiles": 4, "min_image_tokens": 1, "max_image_tokens": 4,
                   "size": {"height": 64, "width": 64}},
        "named": {"image_start_token": "<|image_start|>", "image_end_token": "<|image_end|>",
               "image_thumbnail_token": "<|img_thumbnail|>",
               **{f"r{row}{column}": f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5)}}},
    "lfm3_vl": {**QWEN_16, "image": "<|image_pad|>"},
    "lighton_ocr": {
        **PIXTRAL, "image": "<|image_pad|>", "images": {**PIXTRAL["images"], "patch_size": {"height": 28, "width": 28}}},
    "llama4": {
        "image": "<|image|>", "seen": "<|patch|>", "images": {"size": SIDE, "max_patches": 4}, "processor": {"patch_size": 14},
        "named": {"start": "<|image_start|>", "end": "<|image_end|>", "x": "<|tile_x_separator|>", "y": "<|tile_y_separator|>"},
        "settings": SMALL},
    "llava_next_video": {
        **LLAVA, "image": "<image>", "named": {"video_token": "<video>"}, "config": {"video_token_id": "<video>"},
        "images": {"size": {"shortest_edge": 56}, "crop_size": SIDE, "image_grid_pinpoints": TILINGS},
        "settings": {**SMALL, "image_grid_pinpoints": TILINGS}},
    **dict.fromkeys(("minicpm_ocr", "minicpmv4_6", "minicpmv4_7"), MINICPM),
    "minimax_m3_vl": {
        "image": "]<]image[>[", "images": {"size": PIXELS}, "config": {"video_token_id": "]<]video[>["},
        "named": {"video_token": "]<]video[>[", "start": "]<]start of image[>[", "end": "]<]end of image[>["}},
    "mistral3": {**PIXTRAL, "image": "[IMG]"},
    "mistral_large4": {**PIXTRAL, "image": "[IMG]"},
    "molmo2": {
        "image": "<|image|>", "seen": "<im_patch>", "images": {"size": SIDE, "max_crops": 4, "overlap_margins": [1, 1]},
        "config": {"image_patch_id": "<im_patch>", "image_start_token_id": "<im_start>", "image_end_token_id": "<im_end>"},
        "settings": {"vision_config.image_size": [56, 56], "vision_config.num_position_embeddings": 16},
        "named": {"video_token": "<|video|>", **{name: f"<{name}>" for name in (
            "im_col", "im_start", "low_res_im_start", "frame_start", "im_end", "frame_end", "im_low")}}},
    "muse_glimmer": {**MUSE, "image": "<|patch|>"},
    "muse_spark": {**MUSE, "image": "<|patch|>", "named": {**MUSE["named"], "audio_token": "<|audio|>"}},
    "ovis2": {
        "image": "<image>", "seen": "<IMG_ATOM>", "images": CROPS, "processor": {"image_seq_length": 16}, "settings": SMALL,
        "named": {name: f"<IMG_{name.upper()}>" for name in ("start", "end", "grid", "col", "row")},
        "config": {"visual_indicator_token_ids": ("<IMG_START>", "<IMG_END>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>")}},
    "paddleocr_vl": {"image": "<|IMAGE_PLACEHOLDER|>", "around": ("<|IMAGE_START|>", "<|IMAGE_END|>"), "images": {"size": PIXELS},
                         "config": {"vision_start_token_id": "<|IMAGE_START|>", "vision_end_token_id": "<|IMAGE_END|>"}},
    "paligemma": {"image": "<image>", "images": {"size": SIDE, "image_seq_length": 16}, "settings": SMALL},
    "perception_lm": {
        "image": "<|image|>", "named": {"video_token": "<|video|>"}, "config": {"video_token_id": "<|video|>"},
        "images": {"tile_size": 56, "max_num_tiles": 4}, "processor": {"patch_size": 14, "pooling_ratio": 2},
        "settings": {"projector_pooling_ratio": 2, "vision_use_cls_token": False, "vision_config.architecture": "test_vit",
                     "vision_config.model_args": {"embed_dim": 64, "img_size": [56, 56], "patch_size": 14, "global_pool": "",
                     "class_token": False}}},
    "qianfan_ocr": {
        "image": "<image>", "seen": "<IMG_CONTEXT>", "images": CROPS, "processor": {"image_seq_length": 4},
        "settings": {"vision_config.image_size": [56, 56], "vision_config.patch_size": [14, 14]},
        "named": {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}},
    **{name: {**QWEN_16, "image": "<|image_pad|>"} for name in ("qwen3_5", "qwen3_5_moe", "qwen4_exp")},
    "qwen2_5_omni_thinker": {**QWEN_14, **OMNI, "like": "qwen2_5_omni"},
    "qwen3_omni_moe_thinker": {**QWEN_16, **OMNI, "like": "qwen3_omni_moe"},
    "qwen3_vl_moe": {**QWEN_16, "image": "<|image_pad|>", "like": "qwen3_vl"},
    "step3p7": {
        "image": "<im_patch>", "images": {"size": SIDE, "patch_size": 56, "max_image_size": 112},
        "settings": {"vision_config.image_size": 56},
        "named": {name: f"<{name}>" for name in ("im_start", "im_end", "patch_start", "patch_end", "patch_newline")}},
    "video_llama_3": {"image": "<|image_pad|>", "named": {"video_token": "<|video_pad|>"},
                          "images": {"size": PIXELS_16, "patch_size": 16}, "config": {"video_token_id": "<|video_pad|>"}},
    "video_llava": {**LLAVA, "image": "<image>", "named": {"video_token": "<video>"}, "config": {"video_token_id": "<video>"},
                    "images": {"size": {"shortest_edge": 56}, "crop_size": SIDE}},
    "vipllava": {**LLAVA, "image": "<image>", "images": {"size": {"shortest_edge": 56}, "crop_size": SIDE}},
}  # fmt: skip
OWN = {**RECIPES, **{name: recipe(name, **entry) for name, entry in TABLE.items()}}
