"""Views that move pixels: flip, crops, padding, perspective, rotation, affine (SeVa's list; torchvision's arithmetic).

What falls in from outside the image is black. An image smaller than the crop ends up whole on a black square: in the
middle for the centre crop, anywhere for the random one (torchvision's `pad_if_needed`, without which it would refuse).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from augment.arguments import interval, number, pair, whole
from augment.chance import happens, integer, uniform
from augment.view import View

LARGEST_SIDE = 4096  # pixels; a larger output would only be shrunk again by every processor we know


@dataclass(frozen=True)
class RandomFlip(View):
    """Mirrors left and right. With p = 0.5 half of the images stay as they are, and equal answers are dropped."""

    name: ClassVar[str] = "random_flip"
    p: float = 0.5  # probability, 0 to 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", number(self.name, "p", self.p, 0, 1))

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        return tv.horizontal_flip(image) if happens(generator, self.p) else image


def crop_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random part of the image: `scale` is its share of the area, `ratio` width / height.

    Ten tries; then the largest part around the middle whose ratio is allowed (the rule of Inception's crop).
    """
    for _ in range(10):
        area = width * height * uniform(generator, *scale)
        aspect = math.exp(uniform(generator, math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return integer(generator, 0, height - h), integer(generator, 0, width - w), h, w
    w, h = width, height
    if width / height < ratio[0]:
        h = min(height, max(1, round(width / ratio[0])))
    elif width / height > ratio[1]:
        w = min(width, max(1, round(height * ratio[1])))
    return (height - h) // 2, (width - w) // 2, h, w


@dataclass(frozen=True)
class RandomResizedCrop(View):
    """A random part of the image, resized to a square."""

    name: ClassVar[str] = "random_resized_crop"
    size: int = 224  # pixels per side of the result, 1 to 4096
    scale: tuple[float, float] = (0.36, 0.64)  # share of the area, each above 0 and at most 1
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height of the part before resizing, 0.01 to 100

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", whole(self.name, "size", self.size, 1, LARGEST_SIDE))
        object.__setattr__(self, "scale", interval(self.name, "scale", self.scale, 1e-4, 1))
        object.__setattr__(self, "ratio", interval(self.name, "ratio", self.ratio, 0.01, 100))

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        top, left, height, width = crop_box(*image.size, self.scale, self.ratio, generator)
        return tv.resized_crop(image, top, left, height, width, [self.size, self.size])


@dataclass(frozen=True)
class CenterCrop(View):
    """The square in the middle."""

    name: ClassVar[str] = "center_crop"
    size: int = 128  # pixels per side, 1 to 4096

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", whole(self.name, "size", self.size, 1, LARGEST_SIDE))

    @property
    def is_random(self) -> bool:
        return False

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        return tv.center_crop(image, [self.size, self.size])


@dataclass(frozen=True)
class RandomCrop(View):
    """A square of the image's own pixels from anywhere in it."""

    name: ClassVar[str] = "random_crop"
    size: int = 224  # pixels per side, 1 to 4096

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", whole(self.name, "size", self.size, 1, LARGEST_SIDE))

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        left, top = (integer(generator, min(0, side - self.size), max(0, side - self.size)) for side in image.size)
        return tv.crop(image, top, left, self.size, self.size)


@dataclass(frozen=True)
class Pad(View):
    """A black frame."""

    name: ClassVar[str] = "pad"
    padding: int = 50  # pixels on every side, 0 to 4096

    def __post_init__(self) -> None:
        object.__setattr__(self, "padding", whole(self.name, "padding", self.padding, 0, LARGEST_SIDE))

    @property
    def is_random(self) -> bool:
        return False

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        return tv.pad(image, [self.padding])


@dataclass(frozen=True)
class Perspective(View):
    """Looks at the image from the side: every corner moves inwards by a random share of half the side."""

    name: ClassVar[str] = "perspective"
    distortion_scale: float = 0.6  # largest share, 0 to 1
    p: float = 1.0  # probability, 0 to 1

    def __post_init__(self) -> None:
        scale = number(self.name, "distortion_scale", self.distortion_scale, 0, 1)
        object.__setattr__(self, "distortion_scale", scale)
        object.__setattr__(self, "p", number(self.name, "p", self.p, 0, 1))

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        width, height = image.size
        if not happens(generator, self.p) or min(width, height) < 2:  # one row of pixels cannot be tilted
            return image
        across, down = int(self.distortion_scale * (width // 2)), int(self.distortion_scale * (height // 2))
        corners = [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]
        inwards = [(1, 1), (-1, 1), (-1, -1), (1, -1)]
        moved = [
            [x + right * integer(generator, 0, across), y + lower * integer(generator, 0, down)]
            for (x, y), (right, lower) in zip(corners, inwards, strict=True)
        ]
        if moved[0][0] >= moved[1][0] or moved[3][0] >= moved[2][0]:  # corners met: nothing would be left to see
            return image
        if moved[0][1] >= moved[3][1] or moved[1][1] >= moved[2][1]:
            return image
        return tv.perspective(image, corners, moved)


@dataclass(frozen=True)
class Rotation(View):
    """Turns the image about its middle; the size stays, the corners are cut off."""

    name: ClassVar[str] = "rotation"
    degrees: tuple[float, float] = (0.0, 180.0)  # counter-clockwise, -360 to 360

    def __post_init__(self) -> None:
        object.__setattr__(self, "degrees", interval(self.name, "degrees", self.degrees, -360, 360))

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        return tv.rotate(image, uniform(generator, *self.degrees))


@dataclass(frozen=True)
class Affine(View):
    """Turns, shifts and shrinks at once."""

    name: ClassVar[str] = "affine"
    degrees: tuple[float, float] = (30.0, 70.0)  # clockwise, -360 to 360
    translate: tuple[float, float] = (0.1, 0.3)  # largest shift either way as a share of (width, height), 0 to 1
    scale: tuple[float, float] = (0.5, 0.75)  # size of the content, 0.01 to 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "degrees", interval(self.name, "degrees", self.degrees, -360, 360))
        object.__setattr__(self, "translate", pair(self.name, "translate", self.translate, 0, 1))
        object.__setattr__(self, "scale", interval(self.name, "scale", self.scale, 0.01, 10))

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        angle = uniform(generator, *self.degrees)
        shift = [
            round(uniform(generator, -share * side, share * side))
            for share, side in zip(self.translate, image.size, strict=True)
        ]
        return tv.affine(image, angle, shift, uniform(generator, *self.scale), shear=[0.0, 0.0])
