"""Views that move pixels: flip, crops, padding, perspective, rotation, affine (SeVa's list; torchvision's arithmetic).

What falls in from outside the image is black. An image smaller than the crop ends up whole on a black square: in the
middle for the centre crop, anywhere for the random one (torchvision's `pad_if_needed`, without which it would refuse).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Interval
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from augment.view import Fixed, View, happens, integer, uniform
from parallax.settings.ranges import Ascending, PositiveShare, Share

LARGEST_SIDE = 4096  # pixels; a larger output would only be shrunk again by every processor we know
Side = Annotated[int, Interval(ge=1, le=LARGEST_SIDE)]  # pixels
Area = Annotated[tuple[PositiveShare, PositiveShare], Ascending()]  # shares of the image's area, from … to …
Degrees = Annotated[float, Interval(ge=-360, le=360)]
Turns = Annotated[tuple[Degrees, Degrees], Ascending()]
Ratio = Annotated[float, Interval(ge=0.01, le=100)]
Ratios = Annotated[tuple[Ratio, Ratio], Ascending()]
Size = Annotated[float, Interval(ge=0.01, le=10)]


@dataclass(frozen=True)
class RandomFlip(View):
    """Mirrors left and right. With p = 0.5 half of the images stay as they are, and equal answers are dropped."""

    name: ClassVar[str] = "random_flip"
    p: Share  # probability

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
    size: Side  # pixels per side of the result
    scale: Area  # share of the area
    ratio: Ratios  # width / height of the part before resizing

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        top, left, height, width = crop_box(*image.size, self.scale, self.ratio, generator)
        return tv.resized_crop(image, top, left, height, width, [self.size, self.size])


@dataclass(frozen=True)
class CenterCrop(Fixed):
    """The square in the middle."""

    name: ClassVar[str] = "center_crop"
    size: Side  # pixels per side

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        return tv.center_crop(image, [self.size, self.size])


@dataclass(frozen=True)
class RandomCrop(View):
    """A square of the image's own pixels from anywhere in it."""

    name: ClassVar[str] = "random_crop"
    size: Side  # pixels per side

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        left, top = (integer(generator, min(0, side - self.size), max(0, side - self.size)) for side in image.size)
        return tv.crop(image, top, left, self.size, self.size)


@dataclass(frozen=True)
class Pad(Fixed):
    """A black frame."""

    name: ClassVar[str] = "pad"
    padding: Annotated[int, Interval(ge=0, le=LARGEST_SIDE)]  # pixels on every side

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        return tv.pad(image, [self.padding])


@dataclass(frozen=True)
class Perspective(View):
    """Looks at the image from the side: every corner moves inwards by a random share of half the side."""

    name: ClassVar[str] = "perspective"
    distortion_scale: Share  # largest share
    p: Share  # probability

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
    degrees: Turns  # counter-clockwise

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        return tv.rotate(image, uniform(generator, *self.degrees))


@dataclass(frozen=True)
class Affine(View):
    """Turns, shifts and shrinks at once."""

    name: ClassVar[str] = "affine"
    degrees: Turns  # clockwise
    translate: tuple[Share, Share]  # largest shift either way as a share of (width, height)
    scale: Annotated[tuple[Size, Size], Ascending()]  # size of the content

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        angle = uniform(generator, *self.degrees)
        shift = [
            round(uniform(generator, -share * side, share * side))
            for share, side in zip(self.translate, image.size, strict=True)
        ]
        return tv.affine(image, angle, shift, uniform(generator, *self.scale), shear=[0.0, 0.0])


@dataclass(frozen=True)
class LowResolution(Fixed):
    """Shrinks the shortest side to `side` pixels, aspect kept, bilinear. An image that is that small already stays."""

    name: ClassVar[str] = "low_resolution"
    side: Side  # pixels of the shortest side

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        return tv.resize(image, [self.side]) if min(image.size) > self.side else image
