"""The network, its tokenizer and its processor: transformers' own CLIP classes, at small size.

The vision side is a given tower (the built-in model's, frozen) with a few layers of its own on top, so that one picture is
looked at by the same eyes for answering and for judging, as with LLaVA-1.5 and CLIP ViT-L/14-336.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
)

from parallax.models import foreign
from parallax.models.foreign import ImageProcessor

# The end token must not have number 2: CLIP reads that as a mark of old checkpoints and then pools at the largest number.
PAD, BOS, UNKNOWN, EOS = "<pad>", "<s>", "<unk>", "</s>"


def build_tokenizer(texts: Iterable[str], vocab_size: int, context: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE learned from `texts`: any text becomes tokens. Each text stands between a start and an end token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in (PAD, BOS, UNKNOWN, EOS)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=2,
    )
    tokenizer.train_from_iterator(texts, trainer)
    numbers = [(token, tokenizer.token_to_id(token)) for token in (BOS, EOS)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A {EOS}", special_tokens=numbers)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, unk_token=UNKNOWN,
        model_max_length=context, padding_side="right", clean_up_tokenization_spaces=False,
    )  # fmt: skip


def build_model(tower: CLIPVisionModel, tokenizer: foreign.Tokenizer, settings: dict[str, Any]) -> CLIPModel:
    """A CLIP whose first vision layers are those of `tower` (a CLIP vision model), frozen. The caller seeds torch."""
    text, old = settings["text"], tower.config
    vision = CLIPVisionConfig(
        image_size=old.image_size, patch_size=old.patch_size, hidden_size=old.hidden_size,
        intermediate_size=old.intermediate_size, num_attention_heads=old.num_attention_heads,
        num_hidden_layers=old.num_hidden_layers + settings["vision"]["layers"],
    )  # fmt: skip
    words = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=text["hidden"], intermediate_size=text["intermediate"],
        num_hidden_layers=text["layers"], num_attention_heads=text["heads"], max_position_embeddings=text["context"],
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = CLIPModel(
        CLIPConfig(text_config=words.to_dict(), vision_config=vision.to_dict(), projection_dim=settings["projection"])
    ).float()
    given = {name: value for name, value in tower.state_dict().items() if not name.startswith("post_layernorm")}
    missing, unexpected = model.vision_model.load_state_dict(given, strict=False)
    if unexpected:
        raise ValueError(f"the tower has weights that CLIP's vision side has no place for: {', '.join(unexpected[:5])}")
    for name, parameter in model.vision_model.named_parameters():
        parameter.requires_grad_(name in missing)
    return model


def build_processor(tokenizer: foreign.Tokenizer, image_processor: ImageProcessor) -> CLIPProcessor:
    """The image side of the built-in model's processor with our tokenizer."""
    images = CLIPImageProcessor(**{
        name: getattr(image_processor, name)
        for name in ("size", "crop_size", "image_mean", "image_std", "do_convert_rgb")
    })  # fmt: skip
    return CLIPProcessor(image_processor=images, tokenizer=tokenizer)


def states_of_tower(model: CLIPModel, pixels: torch.Tensor, frozen_layers: int) -> torch.Tensor:
    """What the frozen layers make of pictures. Shape: (batch, 1 + patches, hidden)."""
    vision = model.vision_model
    states = vision.pre_layrnorm(vision.embeddings(pixels))
    for layer in vision.encoder.layers[:frozen_layers]:
        states = layer(states, attention_mask=None)
    return states


def embed_states(model: CLIPModel, states: torch.Tensor, frozen_layers: int) -> torch.Tensor:
    """Image embeddings of length 1 from the frozen layers' states. Shape: (batch, projection)."""
    vision = model.vision_model
    for layer in vision.encoder.layers[frozen_layers:]:
        states = layer(states, attention_mask=None)
    return torch.nn.functional.normalize(model.visual_projection(vision.post_layernorm(states[:, 0])), dim=-1)


def embed_texts(model: CLIPModel, tokenizer: foreign.Tokenizer, texts: list[str]) -> torch.Tensor:
    """Text embeddings of length 1. Shape: (len(texts), projection)."""
    coded = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    return torch.nn.functional.normalize(model.get_text_features(**coded).pooler_output, dim=-1)
