"""How many tokens prompts and responses take, known before any image is decoded.

However a processor cuts images, how many tokens an image takes depends on its size alone. So each distinct size is counted
once, on an empty picture of that size sent through the real processor. A processor that gives every size the same number is
found out by a few very different ones: then no image file is even opened. Text is tokenised in bulk, each text once.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from PIL import Image

from parallax.models.encoding.prompt_encoder import PromptEncoder
from parallax.models.loading import context_of, end_tokens, load_processor, loaded
from parallax.records import Conversation, RefusedImage, Response
from parallax.records.images import image_size
from parallax.settings.groups import Model

Size = tuple[int, int]  # width, height in pixels

PROBES: tuple[Size, ...] = ((64, 64), (640, 480), (480, 640), (1600, 200), (200, 1600), (1200, 1200))


class TokenCounts:
    """Counts what `encoder` would give, without encoding. Remembers the counts of image sizes."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self.encoder, self.chat = encoder, encoder.chat
        self._of_size: dict[Size, int] = {}
        self._one_for_all: bool | None = None

    def prompts(self, items: Sequence[Conversation]) -> list[int]:
        """Tokens of each prompt, image tokens included: the length of `encode_conversation(...).input_ids`.

        Raises `BadImage` for an image whose size cannot be read.
        """
        asked = [item.question if item.is_plain else item for item in items]
        texts = list(dict.fromkeys(asked))
        of_text = dict(zip(texts, self.chat.prompt_lengths(texts), strict=True))
        if self.size_does_not_matter():
            each = self.image_tokens(PROBES[0])
            return [of_text[prompt] + each * len(item.images) for prompt, item in zip(asked, items, strict=True)]
        return [
            of_text[prompt] + sum(self.image_tokens(image_size(image)) for image in item.images)
            for prompt, item in zip(asked, items, strict=True)
        ]

    def responses(self, responses: Sequence[Response]) -> list[int]:
        """Tokens of each response, end token included: the length of `encode_response(...)`."""
        texts = list(dict.fromkeys(r.text for r in responses if r.token_ids is None))
        of_text = dict(zip(texts, self.chat.response_lengths(texts), strict=True))
        return [len(r.token_ids) if r.token_ids is not None else of_text[r.text] for r in responses]

    def image_tokens(self, size: Size) -> int:
        """Tokens that an image of this size adds to the text around it, which has one placeholder for it."""
        if size not in self._of_size:
            rendered = self.chat.render("What is this?")
            whole = self.encoder.prompt_length(Image.new("RGB", size), rendered)
            self._of_size[size] = whole - len(self.chat.encode(rendered))
        return self._of_size[size]

    def size_does_not_matter(self) -> bool:
        """Whether images of all sizes take the same number of tokens. Not where the processor refuses one of the trial sizes."""
        if self._one_for_all is None:
            try:
                self._one_for_all = len({self.image_tokens(size) for size in PROBES}) == 1
            except RefusedImage:
                self._one_for_all = False
        return self._one_for_all


def load_encoder(model: Model) -> PromptEncoder:
    """The encoder that the policy of the `model` group has, from files that are on this machine: nothing is downloaded.

    Raises FileNotFoundError or ValueError, in sentences.
    """
    from transformers import AutoConfig, GenerationConfig

    path = model.path
    config = loaded(path, AutoConfig, revision=model.commit, local_files_only=True)
    try:
        generation: Any = GenerationConfig.from_pretrained(path, local_files_only=True)
    except OSError:  # a checkpoint without one takes what its configuration says
        generation = GenerationConfig.from_model_config(config)
    stand_in = SimpleNamespace(config=config, generation_config=generation)
    processor = load_processor(path, model, stand_in, local_files_only=True)
    return PromptEncoder(
        processor,
        end_token_ids=end_tokens(stand_in, processor.tokenizer),
        max_context=context_of(model, config),
        image_pad=model.image_pad,
    )
