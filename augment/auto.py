"""Learned and random policies of operations: AutoAugment (arXiv 1805.09501) and RandAugment (arXiv 1909.13719).

torchvision's own, which take their numbers from torch's global generator: it is set to a seed drawn from ours while they
work and put back afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from PIL import Image
from torchvision import transforms

from augment.arguments import one_of, whole
from augment.chance import integer
from augment.view import View

POLICIES = ("imagenet", "cifar10", "svhn")


@cache
def _auto_augment(policy: str) -> transforms.AutoAugment:
    return transforms.AutoAugment(transforms.AutoAugmentPolicy(policy))


def _with_seed(transform: torch.nn.Module, image: Image.Image, generator: torch.Generator) -> Image.Image:
    seed = integer(generator, 0, 2**62)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone: `torch.manual_seed` would reach for the GPUs too
        result: Image.Image = transform(image)
    return result


@dataclass(frozen=True)
class AutoAugment(View):
    """One of 25 pairs of operations that were found to help classifiers."""

    name: ClassVar[str] = "autoaugment"
    policy: str = "imagenet"  # the data set the pairs were found on: imagenet, cifar10 or svhn

    def __post_init__(self) -> None:
        object.__setattr__(self, "policy", one_of(self.name, "policy", self.policy, POLICIES))

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        return _with_seed(_auto_augment(self.policy), image, generator)


@dataclass(frozen=True)
class RandAugment(View):
    """A few operations drawn from fourteen, all of one strength."""

    name: ClassVar[str] = "randaugment"
    num_ops: int = 2  # operations in a row, 1 to 14
    magnitude: int = 9  # strength, 0 to 30

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_ops", whole(self.name, "num_ops", self.num_ops, 1, 14))
        object.__setattr__(self, "magnitude", whole(self.name, "magnitude", self.magnitude, 0, 30))

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        return _with_seed(transforms.RandAugment(self.num_ops, self.magnitude), image, generator)
