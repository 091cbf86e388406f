"""Complete random checkpoints of the configured families at toy size: model, tokenizer, processor, chat template on disk.

They load with transformers' Auto classes like the real ones and behave like them in everything but sense: how images are
cut, which control tokens there are, how a chat is written down. Nothing is downloaded; the tokenizer is learned from a few
sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    GenerationConfig,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from parallax.small_world.toys.tiny_configs import TILINGS, TinyTokens, tiny_config

SENTENCES = (
    "Describe this image in detail. There is a red circle to the left of a blue square.",
    "What colour is the triangle? The triangle is green. Is there a dog in the image? No, there is no dog.",
    "The picture shows two people walking on a beach at sunset, and a small white boat far away on the water.",
    "How many cups are on the table? There are 3 cups on the table. Read the number: 1 2 3 4 5 6 7 8 9 0.",
    "A chat between a curious user and an assistant who gives helpful, detailed and polite answers.",
)

VICUNA = (  # LLaVA-1.5: "USER: <image>\nquestion ASSISTANT: answer</s>"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}ASSISTANT: {% else %}{{ message['role'] | upper }}: {% endif %}"
    "{% for item in message['content'] if item['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for item in message['content'] if item['type'] == 'text' %}{{ item['text'] }}{% endfor %}"
    "{{ eos_token if message['role'] == 'assistant' else ' ' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
MISTRAL = (  # LLaVA-1.6 on Mistral: "[INST] <image>\nquestion [/INST] answer</s>"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %} {% else %}[INST] {% endif %}"
    "{% for item in message['content'] if item['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for item in message['content'] if item['type'] == 'text' %}{{ item['text'] }}{% endfor %}"
    "{{ eos_token if message['role'] == 'assistant' else ' [/INST]' }}"
    "{% endfor %}"
)
CHATML = (  # Qwen-VL: turns between <|im_start|> and <|im_end|>, a default system turn first
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ item['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer(
    specials: Sequence[str], *, bos: str | None, eos: str, pad: str, image: str
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 400 tokens. It takes any text; the `specials` are single tokens, the first having id 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in specials],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        extra_special_tokens={"image_token": image},
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


@dataclass(frozen=True)
class _Recipe:
    specials: tuple[str, ...]
    bos: str | None
    eos: str
    pad: str
    image: str
    processor: Callable[[PreTrainedTokenizerFast], Any]


def _llava_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    images = CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    return LlavaProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=VICUNA,
    )  # fmt: skip


def _llava_next_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaNextProcessor:
    images = LlavaNextImageProcessor(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, image_grid_pinpoints=TILINGS
    )
    return LlavaNextProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=MISTRAL,
    )  # fmt: skip


def _qwen_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLProcessor:
    sizes = {"shortest_edge": 28 * 28, "longest_edge": 112 * 112}  # least and most pixels of an image
    return Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(size=sizes), tokenizer, Qwen2VLVideoProcessor(size=sizes), chat_template=CHATML
    )


_LLAMA = ("<unk>", "<s>", "</s>", "<image>", "<pad>")
_QWEN = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
RECIPES = {
    "llava": _Recipe(_LLAMA, "<s>", "</s>", "<pad>", "<image>", _llava_processor),
    "llava_next": _Recipe(_LLAMA, "<s>", "</s>", "<pad>", "<image>", _llava_next_processor),
    "qwen2_5_vl": _Recipe(_QWEN, None, "<|im_end|>", "<|endoftext|>", "<|image_pad|>", _qwen_processor),
}


def make_tiny_checkpoint(model_type: str, folder: Path | str, seed: int = 0) -> Path:
    """Write a random checkpoint of `model_type` (llava, llava_next or qwen2_5_vl) into `folder` and return the folder.

    About 1 MB; loads with `AutoModelForImageTextToText` and `AutoProcessor`. The weights depend on `seed` alone. Raises
    ValueError for a family without a recipe.
    """
    recipe = RECIPES.get(model_type)
    if recipe is None:
        raise ValueError(f"there is no tiny checkpoint of {model_type!r}; there are {', '.join(RECIPES)}")
    folder = Path(folder)
    tokenizer = tiny_tokenizer(recipe.specials, bos=recipe.bos, eos=recipe.eos, pad=recipe.pad, image=recipe.image)
    ids = {name: tokenizer.get_vocab()[name] for name in recipe.specials}
    tokens = TinyTokens(
        vocabulary=len(tokenizer),
        image=ids[recipe.image],
        video=ids.get("<|video_pad|>", ids[recipe.image]),
        vision_start=ids.get("<|vision_start|>", 0),
        vision_end=ids.get("<|vision_end|>", 0),
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(tiny_config(model_type, tokens))
    model.generation_config = GenerationConfig(
        bos_token_id=tokens.bos, eos_token_id=tokens.eos, pad_token_id=tokens.pad, do_sample=False
    )
    model.save_pretrained(folder)
    recipe.processor(tokenizer).save_pretrained(folder)
    return folder
