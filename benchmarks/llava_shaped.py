"""A LLaVA of a stated size with random weights, and preference pairs of stated lengths for it: what the benchmarks run on.

Shape like LLaVA-1.5: a CLIP tower on 336 × 336 pixels gives 576 image tokens, a two-layer projector, a Llama decoder. Its
tokenizer has a token for each word, so that a response of R tokens is one on every side of a comparison. Nothing is
downloaded.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

IMAGE_TOKENS = 576
QUESTION_TOKENS = 40  # all other tokens of the prompt, those of the chat template included
TEMPLATE_TOKENS = 4  # <s> USER: … ASSISTANT: and the line break after the image


@dataclass(frozen=True)
class Shape:
    """The parts of a LLaVA that cost something. The default has 39 million parameters."""

    hidden: int = 512
    layers: int = 8
    heads: int = 8
    intermediate: int = 1376
    vocabulary: int = 8192
    vision_hidden: int = 192
    vision_layers: int = 7  # features are taken after the last but one, as LLaVA does

    def name(self) -> str:
        """For tables, e.g. 8 x 512, 8,192 words."""
        return f"{self.layers} x {self.hidden}, {self.vocabulary:,} words"


def write_checkpoint(
    folder: Path, shape: Shape = Shape(), seed: int = 0, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Path:
    """Write model, tokenizer and processor; a folder that holds the same is left alone. Returns the folder.

    `device`: where the weights are drawn, in `dtype`.
    """
    from transformers import (
        AutoModelForImageTextToText,
        CLIPImageProcessor,
        GenerationConfig,
        LlavaConfig,
        LlavaProcessor,
    )

    from tests.toys.recipes import VICUNA

    stamp = folder / "shape.json"
    content = json.dumps({**asdict(shape), "seed": seed, "dtype": str(dtype)})
    if stamp.is_file() and stamp.read_text() == content:
        return folder
    tokenizer = _word_tokenizer(shape.vocabulary)
    config = LlavaConfig(
        text_config={
            "model_type": "llama", "vocab_size": shape.vocabulary, "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate, "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.heads, "max_position_embeddings": 4096, "tie_word_embeddings": False,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        },
        vision_config={
            "model_type": "clip_vision_model", "image_size": 336, "patch_size": 14, "hidden_size": shape.vision_hidden,
            "intermediate_size": 4 * shape.vision_hidden, "num_hidden_layers": shape.vision_layers,
            "num_attention_heads": shape.vision_hidden // 64, "projection_dim": 64,
        },
        image_token_id=3, image_seq_length=IMAGE_TOKENS, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with torch.device(device):
            model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0, do_sample=False)
    model.save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    LlavaProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template="{{ bos_token }}" + VICUNA,  # for trainers that do not add it themselves
    ).save_pretrained(folder)  # fmt: skip
    stamp.write_text(content)
    return folder


def _word_tokenizer(vocabulary: int) -> Any:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = ["<pad>", "<s>", "</s>", "<image>", "<unk>", "USER:", "ASSISTANT:", "\n"]
    words = {word: number for number, word in enumerate(specials)}
    words |= {f"w{number}": number for number in range(len(specials), vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" +"), "removed")
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>", "<image>", "\n"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"}, padding_side="left", clean_up_tokenization_spaces=False,
    )  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One preference in words, as every trainer takes it."""

    image: Path
    prompt: str
    responses: tuple[str, ...]  # chosen first


def write_rows(
    folder: Path, count: int, tokens: int, negatives: int = 1, shape: Shape = Shape(), seed: int = 0
) -> list[Row]:
    """`count` photographs-sized images on disk, each with 1 + `negatives` responses of exactly `tokens` tokens, end included."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        draw = np.random.default_rng([seed, number])
        path = folder / f"{number}.jpg"
        if not path.is_file():
            rough = Image.fromarray(draw.integers(0, 255, (12, 16, 3), dtype=np.uint8))
            rough.resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=90)
        rows.append(
            Row(
                path,
                _words(draw, QUESTION_TOKENS - TEMPLATE_TOKENS, shape.vocabulary),
                tuple(_words(draw, tokens - 1, shape.vocabulary) for _ in range(1 + negatives)),
            )
        )
    return rows


def _words(draw: np.random.Generator, count: int, vocabulary: int) -> str:
    return " ".join(f"w{number}" for number in draw.integers(8, vocabulary, count))
