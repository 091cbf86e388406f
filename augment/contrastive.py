"""The crops-and-colours recipes of contrastive learning: MoCo, BYOL, SimCLR.

Four of one kind: a random resized crop, a flip, colour jitter, grey, blur; they differ in strengths and probabilities.
`moco_seva`, `byol` and `simclr` are as in SeVa's code, where jitter and blur are always done; `moco_v2` is the recipe of
MoCo v2 itself (arXiv 2003.04297), where jitter has probability 0.8 and blur 0.5. The originals of BYOL and SimCLR also
differ from SeVa's variants (stronger jitter, blur by kernel size, solarize in BYOL's second view).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from augment.colour import Blur, Hue, Strength, gaussian_blur, jitter
from augment.geometric import Area, Side, crop_box
from augment.view import View, happens
from parallax.settings.ranges import Share

RATIO = (3 / 4, 4 / 3)  # width / height of the crop before resizing


@dataclass(frozen=True)
class _Contrastive(View):
    size: Side  # pixels per side of the result
    scale: Area  # share of the area that the crop keeps
    flip_p: Share  # probability of mirroring
    brightness: Strength  # factor from [max(0, 1 - x), 1 + x]
    contrast: Strength  # likewise
    saturation: Strength  # likewise
    hue: Hue  # turn of the colour circle from [-x, x]
    jitter_p: Share  # probability of the colour jitter
    grayscale_p: Share  # probability of grey
    blur_radius: Blur  # standard deviation in pixels
    blur_p: Share  # probability of the blur

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        top, left, height, width = crop_box(*image.size, self.scale, RATIO, generator)
        image = tv.resized_crop(image, top, left, height, width, [self.size, self.size])
        if happens(generator, self.flip_p):
            image = tv.horizontal_flip(image)
        if happens(generator, self.jitter_p):
            image = jitter(image, generator, self.brightness, self.contrast, self.saturation, self.hue)
        if happens(generator, self.grayscale_p):
            image = tv.rgb_to_grayscale(image, num_output_channels=3)
        if happens(generator, self.blur_p):
            image = gaussian_blur(image, generator, self.blur_radius)
        return image


@dataclass(frozen=True)
class MocoSeva(_Contrastive):
    """MoCo's augmentation as SeVa runs it: jitter and blur always."""

    name: ClassVar[str] = "moco_seva"


@dataclass(frozen=True)
class MocoV2(_Contrastive):
    """MoCo v2's own: jitter in 80 % and blur in 50 % of the images."""

    name: ClassVar[str] = "moco_v2"


@dataclass(frozen=True)
class Byol(_Contrastive):
    """SeVa's variant of BYOL's: smaller crops."""

    name: ClassVar[str] = "byol"


@dataclass(frozen=True)
class SimClr(_Contrastive):
    """SeVa's variant of SimCLR's: more hue, no blur."""

    name: ClassVar[str] = "simclr"
