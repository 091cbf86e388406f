"""Pictures, requests and pairs that the tests of this room share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from parallax.models.generation.requests import GenerationRequest
from parallax.models.policy import Policy
from parallax.records import Decoding, Response, ViewSpec

FAMILIES = ["llava", "llava_next", "qwen2_5_vl"]
SIZES = [(40, 30), (30, 50), (24, 24)]
PROMPTS = ["What is shown?", "How many shapes are there, and what colour is the circle?", "Describe."]
ANSWERS = [
    "A red square.",
    "There is a small green triangle above the yellow star.",
    "42",
    "Two shapes left of a circle",
]
QUESTIONS = ["What is shown?", "How many shapes are there, and what colour is the circle?", "Describe. ", "Read it."]


@dataclass(frozen=True)
class Picture:
    """A smooth random picture of a given size; different numbers are different pictures."""

    number: int
    size: tuple[int, int] = (40, 30)

    def load(self) -> Image.Image:
        rough = np.random.default_rng(self.number).integers(0, 255, (5, 6, 3), dtype=np.uint8)
        return Image.fromarray(rough).resize(self.size, Image.Resampling.BICUBIC)

    def digest(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()

    def describe(self) -> str:
        return f"picture:{self.number}"


def ragged(count: int, temperature: float = 0.0) -> list[GenerationRequest]:
    """Different images, shapes, questions, limits, and some diffusion-noised views."""
    return [
        GenerationRequest(
            sample_id=f"s{i}",
            image=Picture(i % 7, SIZES[i % 3]),
            prompt=QUESTIONS[i % 4] * (1 + i % 3),
            view=ViewSpec("diffusion", {"noise_steps": 500}, seed=i) if i % 5 == 4 else ViewSpec(),
            decoding=Decoding(
                4 + 5 * (i % 4), temperature, 0.9 if temperature else 1.0, seed=100 + i if temperature else 0
            ),
        )
        for i in range(count)
    ]


def prompts_and_responses(policy: Policy, negatives: int) -> list[tuple[Any, list[torch.Tensor]]]:
    """Ragged prompts, images of different shape, ragged responses; one response was cut and has no end token."""
    encoder = policy.encoder
    items = []
    for index, (prompt, size) in enumerate(zip(PROMPTS, SIZES, strict=True)):
        responses = [encoder.encode_response(Response(ANSWERS[(index + k) % 4])) for k in range(1 + negatives)]
        items.append((encoder.encode_prompt(Picture(index, size).load(), prompt), responses))
    items[0][1][0] = items[0][1][0][:-1]
    return items


def norms_in_full_precision(model: Any) -> None:
    """transformers' RMS norms round to float32 whatever the model's type, which would hide behind 1e-7 in gradients."""

    def exact(norm: Any) -> Any:
        return lambda x: norm.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.variance_epsilon)

    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = exact(module)
