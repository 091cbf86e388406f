"""Tokenizer, processor and chat template of toy checkpoints, family by family.

Image processors and processors are the families' own classes, set to small images; control tokens and templates are laid out as
in the families' published checkpoints, cut down to what one image and text need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import (
    CLIPImageProcessor,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Glm4vImageProcessor,
    Glm4vProcessor,
    Glm4vVideoProcessor,
    GotOcr2ImageProcessor,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from tests.toys.tiny_configs import TILINGS


def _template(image: str, user: str, assistant: str, end: str, prompt: str, start: str = "") -> str:
    """A chat template: `start`, then each turn as its opening, images, text and `end`; `prompt` asks for an answer."""
    return (
        f"{start}{{% for message in messages %}}"
        f"{{% if message['role'] == 'assistant' %}}{assistant}{{% else %}}{user}{{% endif %}}"
        f"{{% for item in message['content'] %}}{{% if item['type'] == 'image' %}}{image}{{% else %}}"
        "{{ item['text'] }}{% endif %}{% endfor %}"
        f"{end}{{% endfor %}}{{% if add_generation_prompt %}}{prompt}{{% endif %}}"
    )


EOS_OR_SPACE = "{{ eos_token if message['role'] == 'assistant' else ' ' }}"
VICUNA = _template(  # LLaVA-1.5: "USER: <image>\nquestion ASSISTANT: answer</s>"
    "<image>\n", "{{ message['role'] | upper }}: ", "ASSISTANT: ", EOS_OR_SPACE, "ASSISTANT:"
)
MISTRAL = _template(  # LLaVA-1.6 on Mistral: "[INST] <image>\nquestion [/INST] answer</s>"
    "<image>\n", "[INST] ", " ", "{{ eos_token if message['role'] == 'assistant' else ' [/INST]' }}", ""
)
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
TURN = "<|im_start|>{{ message['role'] }}\n"
SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)
CHATML = _template(QWEN_IMAGE, TURN, TURN, "<|im_end|>\n", "<|im_start|>assistant\n", SYSTEM)  # Qwen2-VL, Qwen2.5-VL
CHATML_BARE = _template(QWEN_IMAGE, TURN, TURN, "<|im_end|>\n", "<|im_start|>assistant\n")  # Qwen3-VL
INTERNVL = _template("<IMG_CONTEXT>\n", TURN, TURN, "<|im_end|>\n", "<|im_start|>assistant\n")
ONEVISION = _template(
    "<image>\n",
    "<|im_start|>{{ message['role'] }} ",
    "<|im_start|>assistant\n",
    "<|im_end|>",
    "<|im_start|>assistant\n",
)
GEMMA = _template(
    "<start_of_image>", "<start_of_turn>user\n", "<start_of_turn>model\n", "<end_of_turn>\n", "<start_of_turn>model\n",
    "{{ bos_token }}",
)  # fmt: skip
IDEFICS = _template("<image>", "User:", "Assistant: ", "<end_of_utterance>\n", "Assistant:", "<|im_start|>")
GLM = _template(
    "<|begin_of_image|><|image|><|end_of_image|>",
    "<|user|>\n",
    "<|assistant|>\n",
    "",
    "<|assistant|>\n",
    "[gMASK]<sop>",
)


@dataclass(frozen=True)
class Recipe:
    """What is special about one family's toy.

    Attributes:
        specials: control tokens, which get the ids from 0 on.
        image: the token that stands for an image.
        processor: makes the family's processor around a tokenizer.
        named: further control tokens that the tokenizer has under a name.
        config: where the configuration holds ids of control tokens: dotted key -> token, or tokens for a list of ids.
        settings: further settings of the configuration: dotted key -> value.
    """

    specials: tuple[str, ...]
    bos: str | None
    eos: str
    pad: str
    image: str
    processor: Callable[[PreTrainedTokenizerFast], Any]
    named: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


SIDE = {"height": 56, "width": 56}
PIXELS = {"shortest_edge": 28 * 28, "longest_edge": 112 * 112}  # least and most pixels of an image
PIXELS_16 = {"shortest_edge": 32 * 32, "longest_edge": 128 * 128}


def _llava(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    images = CLIPImageProcessor(size={"shortest_edge": 56}, crop_size=SIDE)
    return LlavaProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=VICUNA,
    )  # fmt: skip


def _llava_next(tokenizer: PreTrainedTokenizerFast) -> LlavaNextProcessor:
    images = LlavaNextImageProcessor(size={"shortest_edge": 56}, crop_size=SIDE, image_grid_pinpoints=TILINGS)
    return LlavaNextProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=MISTRAL,
    )  # fmt: skip


def _llava_onevision(tokenizer: PreTrainedTokenizerFast) -> LlavaOnevisionProcessor:
    images = LlavaOnevisionImageProcessor(size=SIDE, image_grid_pinpoints=TILINGS)
    return LlavaOnevisionProcessor(
        images, tokenizer, LlavaOnevisionVideoProcessor(size=SIDE), num_image_tokens=16,
        vision_feature_select_strategy="full", chat_template=ONEVISION,
    )  # fmt: skip


def _qwen2_vl(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLProcessor:
    return Qwen2VLProcessor(
        Qwen2VLImageProcessor(size=PIXELS), tokenizer, Qwen2VLVideoProcessor(size=PIXELS), chat_template=CHATML
    )


def _qwen2_5_vl(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLProcessor:
    return Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(size=PIXELS), tokenizer, Qwen2VLVideoProcessor(size=PIXELS), chat_template=CHATML
    )


def _qwen3_vl(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLProcessor:
    images = Qwen2VLImageProcessor(size=PIXELS_16, patch_size=16)
    return Qwen3VLProcessor(images, tokenizer, Qwen3VLVideoProcessor(size=PIXELS_16), chat_template=CHATML_BARE)


def _internvl(tokenizer: PreTrainedTokenizerFast) -> InternVLProcessor:
    images = GotOcr2ImageProcessor(size=SIDE, crop_to_patches=True, max_patches=4)
    return InternVLProcessor(
        images, tokenizer, InternVLVideoProcessor(size=SIDE), image_seq_length=4, chat_template=INTERNVL
    )


def _gemma3(tokenizer: PreTrainedTokenizerFast) -> Gemma3Processor:
    return Gemma3Processor(Gemma3ImageProcessor(size=SIDE), tokenizer, chat_template=GEMMA, image_seq_length=4)


def _smolvlm(tokenizer: PreTrainedTokenizerFast) -> SmolVLMProcessor:
    images = SmolVLMImageProcessor(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
    return SmolVLMProcessor(images, tokenizer, SmolVLMVideoProcessor(), image_seq_len=4, chat_template=IDEFICS)


def _idefics3(tokenizer: PreTrainedTokenizerFast) -> Idefics3Processor:
    images = Idefics3ImageProcessor(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
    return Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=IDEFICS)


def _glm4v(tokenizer: PreTrainedTokenizerFast) -> Glm4vProcessor:
    return Glm4vProcessor(
        Glm4vImageProcessor(size=PIXELS), tokenizer, Glm4vVideoProcessor(size=PIXELS), chat_template=GLM
    )


_LLAMA = ("<unk>", "<s>", "</s>", "<image>", "<pad>")
_QWEN = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
_QWEN_IDS = {
    "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>", "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}  # fmt: skip
_IDEFICS = (
    "<|endoftext|>", "<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<global-img>", "<image>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 3) for column in range(1, 3)),
)  # fmt: skip
_IDEFICS_SETTINGS = {"vision_config.image_size": 56, "vision_config.patch_size": 14, "scale_factor": 2}
_GLM = (
    "<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|begin_of_image|>", "<|end_of_image|>",
    "<|image|>", "<|begin_of_video|>", "<|end_of_video|>", "<|video|>",
)  # fmt: skip
RECIPES = {
    "llava": Recipe(_LLAMA, "<s>", "</s>", "<pad>", "<image>", _llava),
    "llava_next": Recipe(_LLAMA, "<s>", "</s>", "<pad>", "<image>", _llava_next),
    "qwen2_5_vl": Recipe(_QWEN, None, "<|im_end|>", "<|endoftext|>", "<|image_pad|>", _qwen2_5_vl),
    "qwen2_vl": Recipe(_QWEN, None, "<|im_end|>", "<|endoftext|>", "<|image_pad|>", _qwen2_vl, config=_QWEN_IDS),
    "qwen3_vl": Recipe(_QWEN, None, "<|im_end|>", "<|endoftext|>", "<|image_pad|>", _qwen3_vl, config=_QWEN_IDS),
    "internvl": Recipe(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
        None, "<|im_end|>", "<|endoftext|>", "<IMG_CONTEXT>", _internvl,
        named={"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
               "video_token": "<video>"},
        config={"image_token_id": "<IMG_CONTEXT>"},
        settings={"vision_config.image_size": [56, 56], "vision_config.patch_size": [14, 14], "image_seq_length": 4,
                  "tie_word_embeddings": False, "text_config.tie_word_embeddings": False},
    ),
    "gemma3": Recipe(
        ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>",
         "<image_soft_token>"),
        "<bos>", "<end_of_turn>", "<pad>", "<image_soft_token>", _gemma3,
        named={"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
        config={"image_token_id": "<image_soft_token>", "boi_token_id": "<start_of_image>", "eoi_token_id": "<end_of_image>"},
        settings={"vision_config.image_size": 56, "vision_config.patch_size": 14, "text_config.sliding_window": 8},
    ),
    "llava_onevision": Recipe(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"),
        None, "<|im_end|>", "<|endoftext|>", "<image>", _llava_onevision,
        named={"video_token": "<video>"},
        config={"image_token_id": "<image>", "video_token_id": "<video>"},
        settings={"vision_config.image_size": 56, "vision_config.patch_size": 14, "image_grid_pinpoints": TILINGS},
    ),
    "smolvlm": Recipe(
        _IDEFICS, "<|im_start|>", "<end_of_utterance>", "<|endoftext|>", "<image>", _smolvlm,
        config={"image_token_id": "<image>"}, settings=_IDEFICS_SETTINGS,
    ),
    "idefics3": Recipe(
        _IDEFICS, "<|im_start|>", "<end_of_utterance>", "<|endoftext|>", "<image>", _idefics3,
        config={"image_token_id": "<image>"}, settings=_IDEFICS_SETTINGS,
    ),
    "glm4v": Recipe(
        _GLM, None, "<|user|>", "<|endoftext|>", "<|image|>", _glm4v,
        config={"image_token_id": "<|image|>", "video_token_id": "<|video|>", "image_start_token_id": "<|begin_of_image|>",
                "image_end_token_id": "<|end_of_image|>", "video_start_token_id": "<|begin_of_video|>",
                "video_end_token_id": "<|end_of_video|>"},
    ),
}  # fmt: skip
