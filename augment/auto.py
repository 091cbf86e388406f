"""Learned and random policies of operations: AutoAugment (arXiv 1805.09501) and RandAugment (arXiv 1909.13719).

torchvision's own, which take their numbers from torch's global generator: it is set to a seed drawn from ours while they
work and put back afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Interval
from PIL import Image
from torchvision import transforms

from augment.view import View, integer

Policy = Literal["imagenet", "cifar10", "svhn"]


@cache
def _auto_augment(policy: Policy) -> transforms.AutoAugment:
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
    policy: Policy  # the data set the pairs were found on

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        return _with_seed(_auto_augment(self.policy), image, generator)


@dataclass(frozen=True)
class RandAugment(View):
    """A few operations drawn from fourteen, all of one strength."""

    name: ClassVar[str] = "randaugment"
    num_ops: Annotated[int, Interval(ge=1, le=14)]  # operations in a row
    magnitude: Annotated[int, Interval(ge=0, le=30)]  # strength

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        return _with_seed(transforms.RandAugment(self.num_ops, self.magnitude), image, generator)
