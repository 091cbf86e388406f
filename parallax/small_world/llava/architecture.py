"""The network and its processor: CLIP vision tower, two-layer projector and Llama, all of them transformers' own classes."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {% elif message['role'] == 'assistant' %}ASSISTANT: {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for item in message['content'] if item['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for item in message['content'] if item['type'] == 'text' %}{{ item['text'] }}{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'assistant' %}</s>{% else %} {% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def build_processor(tokenizer: PreTrainedTokenizerFast, image: dict[str, Any]) -> LlavaProcessor:
    """`image` has `side` and `patch` in pixels and the `mean` and `std` that pixels (0 to 1) are normalised with."""
    side = image["side"]
    images = CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=[image["mean"]] * 3,
        image_std=[image["std"]] * 3,
        do_convert_rgb=True,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=image["patch"],
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLIP's class token, which the "default" strategy drops again
        chat_template=CHAT_TEMPLATE,
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast, image: dict[str, Any], vision: dict[str, Any], language: dict[str, Any]
) -> LlavaForConditionalGeneration:
    """A freshly initialised model. The caller seeds torch."""
    vision_config = CLIPVisionConfig(
        image_size=image["side"],
        patch_size=image["patch"],
        hidden_size=vision["hidden"],
        intermediate_size=vision["intermediate"],
        num_hidden_layers=vision["layers"],
        num_attention_heads=vision["heads"],
        projection_dim=vision["hidden"],
    )
    text_config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=language["hidden"],
        intermediate_size=language["intermediate"],
        num_hidden_layers=language["layers"],
        num_attention_heads=language["heads"],
        num_key_value_heads=language["heads"],
        max_position_embeddings=language["context"],
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    names: dict[str, Any] = {  # the special tokens, by the names LlavaConfig knows them
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = LlavaConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_seq_length=(image["side"] // image["patch"]) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
        **names,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.do_sample = False
    model.generation_config.max_new_tokens = 96
    return model.float()


def image_features(model: LlavaForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """What the language side gets to see, before the projector. Shape: (batch, patches, vision hidden)."""
    states = model.model.vision_tower(pixels, output_hidden_states=True, return_dict=True).hidden_states
    return states[model.config.vision_feature_layer][:, 1:]
