"""Views that change values and keep places: jitter, grey, invert, posterize, solarize, equalize, contrast, sharpness, blur.

The single operations of SeVa's code with its arguments, torchvision's arithmetic and default probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Interval
from PIL import Image, ImageFilter
from torchvision.transforms.v2 import functional as tv

from augment.view import View, happens, order, uniform
from parallax.settings.ranges import Ascending, Share

Strength = Annotated[float, Interval(ge=0, le=10)]
Hue = Annotated[float, Interval(ge=0, le=0.5)]
Pixels = Annotated[float, Interval(ge=0, le=100)]
Blur = Annotated[tuple[Pixels, Pixels], Ascending()]


def jitter(
    image: Image.Image,
    generator: torch.Generator,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> Image.Image:
    """Changes all four by random amounts in random order. Factors are from [max(0, 1 - x), 1 + x], hue turns from [-x, x]."""
    factors = [uniform(generator, max(0.0, 1 - x), 1 + x) for x in (brightness, contrast, saturation)]
    turn = uniform(generator, -hue, hue)
    for step in order(generator, 4):
        if step == 0 and brightness > 0:
            image = tv.adjust_brightness(image, factors[0])
        elif step == 1 and contrast > 0:
            image = tv.adjust_contrast(image, factors[1])
        elif step == 2 and saturation > 0:
            image = tv.adjust_saturation(image, factors[2])
        elif step == 3 and hue > 0:
            image = tv.adjust_hue(image, turn)
    return image


def gaussian_blur(image: Image.Image, generator: torch.Generator, radius: tuple[float, float]) -> Image.Image:
    """Pillow's Gaussian blur with a radius (standard deviation in pixels) drawn from `radius`."""
    return image.filter(ImageFilter.GaussianBlur(radius=uniform(generator, *radius)))


@dataclass(frozen=True)
class _Jitter(View):
    brightness: Strength  # factor from [max(0, 1 - x), 1 + x]
    contrast: Strength  # likewise
    saturation: Strength  # likewise
    hue: Hue  # turn of the colour circle from [-x, x]

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        return jitter(image, generator, self.brightness, self.contrast, self.saturation, self.hue)


@dataclass(frozen=True)
class ColorJitter(_Jitter):
    """Brightness, contrast, saturation and hue changed at random, with SeVa's strengths."""

    name: ClassVar[str] = "color_jitter"


@dataclass(frozen=True)
class SticJitter(_Jitter):
    """STIC's colour corruption (arXiv 2405.19716, section 4): brightness and a strong turn of hue."""

    name: ClassVar[str] = "stic_jitter"


@dataclass(frozen=True)
class _Sometimes(View):
    """An operation without further chance that is done with probability p."""

    p: Share  # probability

    @property
    def is_random(self) -> bool:
        return 0 < self.p < 1

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        return self.apply(image) if happens(generator, self.p) else image

    def apply(self, image: Image.Image) -> Image.Image:
        raise NotImplementedError


@dataclass(frozen=True)
class Grayscale(_Sometimes):
    """Grey, in three equal channels."""

    name: ClassVar[str] = "grayscale"

    def apply(self, image: Image.Image) -> Image.Image:
        return tv.rgb_to_grayscale(image, num_output_channels=3)


@dataclass(frozen=True)
class Invert(_Sometimes):
    """The negative."""

    name: ClassVar[str] = "invert"

    def apply(self, image: Image.Image) -> Image.Image:
        return tv.invert(image)


@dataclass(frozen=True)
class Posterize(_Sometimes):
    """Few values per channel."""

    name: ClassVar[str] = "posterize"
    bits: Annotated[int, Interval(ge=1, le=8)]  # bits kept per channel

    def apply(self, image: Image.Image) -> Image.Image:
        return tv.posterize(image, self.bits)


@dataclass(frozen=True)
class Solarize(_Sometimes):
    """Inverts what is brighter than a threshold."""

    name: ClassVar[str] = "solarize"
    threshold: Annotated[float, Interval(ge=0, le=256)]  # pixel value

    def apply(self, image: Image.Image) -> Image.Image:
        return tv.solarize(image, self.threshold)


@dataclass(frozen=True)
class Equalize(_Sometimes):
    """Spreads the values of each channel evenly."""

    name: ClassVar[str] = "equalize"

    def apply(self, image: Image.Image) -> Image.Image:
        return tv.equalize(image)


@dataclass(frozen=True)
class Autocontrast(_Sometimes):
    """Stretches each channel to the full range."""

    name: ClassVar[str] = "autocontrast"

    def apply(self, image: Image.Image) -> Image.Image:
        return tv.autocontrast(image)


@dataclass(frozen=True)
class Sharpness(_Sometimes):
    """Softens (factor below 1) or sharpens (above 1)."""

    name: ClassVar[str] = "sharpness"
    factor: Strength  # 0 smooths as much as this operation can, 1 changes nothing

    def apply(self, image: Image.Image) -> Image.Image:
        return tv.adjust_sharpness(image, self.factor)


@dataclass(frozen=True)
class GaussianBlur(View):
    """Blur of random strength."""

    name: ClassVar[str] = "gaussian_blur"
    radius: Blur  # standard deviation in pixels

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        return gaussian_blur(image, generator, self.radius)
