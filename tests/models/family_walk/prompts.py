"""Prompts and answers of a toy model: by its family's own processor and chat template, or by hand where there is no recipe.

By hand the shapes follow from the configuration (`inputs.py`), and the images of a batch differ in size where a family's
inputs say how large an image is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from parallax.models.batch import EncodedPrompt
from parallax.models.foreign import VLM
from parallax.records import Response
from tests.models.family_walk.inputs import candidates, prompts
from tests.models.family_walk.steps import Toy, Wrong

SIZES = ((80, 60), (60, 130), (200, 90))  # width and height in pixels of the toy images
QUESTIONS = ("What is this?", "Describe the image in detail, please.", "Red?")
ANSWERS = (
    ("A red dog is here.", "No, there is no dog."),
    ("yes it is a red one", "three cups"),
    ("one two three", "two people walking"),
)


def with_processor(model_type: str, folder: Path) -> Toy:
    """A checkpoint of a family with a recipe, written, loaded as a run loads it, and asked through its own processor."""
    from tests.models.family_walk.own_processors import OWN
    from tests.toys.tiny_checkpoints import make_tiny_checkpoint
    from tests.typed import load_policy

    path = make_tiny_checkpoint(model_type, folder, recipe=OWN[model_type])
    with patch("parallax.models.loading.refuse_unfit"):  # what an earlier walk says of it is not to stop this one
        policy = load_policy({"path": str(path), "layout": "separate"}, None)
    encoder = policy.encoder

    def asked(seed: int) -> list[EncodedPrompt]:
        return [
            encoder.encode_prompt(_noise(seed + n, size), question)
            for n, (size, question) in enumerate(zip(SIZES, QUESTIONS, strict=True))
        ]

    answers = [[encoder.encode_response(Response(text)) for text in texts] for texts in ANSWERS]
    policy.model.requires_grad_(False)
    return Toy(policy.model, asked(0), asked(100), answers)


def by_hand(model: VLM) -> Toy:
    """Prompts around the first form of an image that the model takes. Raises `Wrong` where it takes none."""
    tried: Exception | None = None
    names = [name for name, _ in candidates(model, _generator(1))]
    for place in range(len(names)):
        for columns in (6, 4):  # patches of the second image in a row; the first has four
            try:
                return _by_hand(model, place, columns)
            except Exception as problem:
                tried = tried or problem
    raise tried or Wrong("its forward takes no image that we know how to make")


@torch.no_grad()
def _by_hand(model: VLM, place: int, columns: int) -> Toy:
    def prompt(seed: int, width: int, more: list[int]) -> EncodedPrompt:
        _, vision = list(candidates(model, _generator(seed), width))[place]
        problem: Exception | None = None
        for text in prompts(model, vision):
            try:
                model(**text, **vision)
            except Exception as error:
                problem = problem or error
                continue
            return _encoded(text, vision, more)
        raise problem or Wrong("its forward takes no image that we know how to make")

    asked = [prompt(1, 4, []), prompt(2, columns, [33, 34, 35]), prompt(1, 4, [36])]
    others = [prompt(3, 4, []), prompt(4, columns, [33, 34, 35]), prompt(3, 4, [36])]
    draw = _generator(5)
    answers = [[torch.randint(20, 60, (n,), generator=draw) for n in lengths] for lengths in ((5, 3), (4, 6), (3, 4))]
    return Toy(model, asked, others, answers)


def _encoded(text: dict[str, Tensor], vision: dict[str, Tensor], more: list[int]) -> EncodedPrompt:
    ids = text["input_ids"]
    of_tokens = {n: v for n, v in text.items() if v.shape == ids.shape and n not in ("input_ids", "attention_mask")}
    others = {n: v for n, v in text.items() if v.shape != ids.shape}
    tail = torch.tensor(more, dtype=torch.long)
    return EncodedPrompt(
        torch.cat([ids[0], tail]),
        {**others, **vision},
        {name: torch.cat([value[0], value.new_zeros(len(more))]) for name, value in of_tokens.items()},
    )


def _noise(seed: int, size: tuple[int, int]) -> Any:
    from PIL import Image

    width, height = size
    pixels = torch.randint(0, 256, (height, width, 3), generator=_generator(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
