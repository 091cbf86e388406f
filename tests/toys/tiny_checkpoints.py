"""Complete random checkpoints of the configured families at toy size: model, tokenizer, processor, chat template on disk.

They load with transformers' Auto classes like the real ones and behave like them in everything but sense: how images are
cut, which control tokens there are, how a chat is written down. Nothing is downloaded; the tokenizer is learned from a few
sentences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import AutoModelForImageTextToText, GenerationConfig, PreTrainedTokenizerFast

from tests.toys.recipes import RECIPES, Recipe
from tests.toys.shrunken_configs import shrunken_config
from tests.toys.tiny_configs import BY_HAND, TinyTokens, tiny_config

SENTENCES = (
    "Describe this image in detail. There is a red circle to the left of a blue square.",
    "What colour is the triangle? The triangle is green. Is there a dog in the image? No, there is no dog.",
    "The picture shows two people walking on a beach at sunset, and a small white boat far away on the water.",
    "How many cups are on the table? There are 3 cups on the table. Read the number: 1 2 3 4 5 6 7 8 9 0.",
    "A chat between a curious user and an assistant who gives helpful, detailed and polite answers.",
)


def tiny_tokenizer(
    specials: Sequence[str], *, bos: str | None, eos: str, pad: str, image: str, named: Mapping[str, str] | None = None
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 400 tokens. It takes any text; the `specials` are single tokens, the first having id 0.

    `named`: control tokens beside `image_token` that the tokenizer has as attributes.
    """
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
        extra_special_tokens={"image_token": image, **(named or {})},
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def make_tiny_checkpoint(model_type: str, folder: Path | str, seed: int = 0, recipe: Recipe | None = None) -> Path:
    """Write a random checkpoint of `model_type` into `folder` and return the folder. `recipe`: else that of `RECIPES`.

    About 1 MB; loads with `AutoModelForImageTextToText` and `AutoProcessor`. The weights depend on `seed` alone. Raises
    ValueError for a family without a recipe.
    """
    recipe = recipe or RECIPES.get(model_type)
    if recipe is None:
        raise ValueError(f"there is no tiny checkpoint of {model_type!r}; there are {', '.join(RECIPES)}")
    folder = Path(folder)
    tokenizer = tokenizer_of(recipe)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config_with(model_type, recipe, tokenizer))
        see_through(model)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )  # fmt: skip
    model.save_pretrained(folder)
    recipe.processor(tokenizer).save_pretrained(folder)
    return folder


def see_through(model: nn.Module) -> None:
    """Random values for weights that start as zeros through which nothing is seen: a projector, or a gate."""
    for parameter in model.parameters():
        if (parameter.ndim >= 2 or parameter.numel() == 1) and not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.5)


def tokenizer_of(recipe: Recipe) -> PreTrainedTokenizerFast:
    """The toy tokenizer of a recipe."""
    return tiny_tokenizer(
        recipe.specials, bos=recipe.bos, eos=recipe.eos, pad=recipe.pad, image=recipe.image, named=recipe.named
    )


def config_with(model_type: str, recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Any:
    """A toy configuration of the family that names the tokenizer's control tokens."""
    ids = {name: tokenizer.get_vocab()[name] for name in recipe.specials}
    if model_type in BY_HAND:
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
        return tiny_config(model_type, tokens)
    settings = {
        "text_config.vocab_size": len(tokenizer),
        "text_config.bos_token_id": tokenizer.bos_token_id,
        "text_config.eos_token_id": tokenizer.eos_token_id,
        "text_config.pad_token_id": tokenizer.pad_token_id,
        **{key: ids[of] if isinstance(of, str) else [ids[token] for token in of] for key, of in recipe.config.items()},
        **recipe.settings,
    }
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        *parts, last = key.split(".")
        place = nested
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return shrunken_config(model_type, nested)
