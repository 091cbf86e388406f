"""Views that take most of the picture away: the corrupted images of terms in which only the image differs.

- Crop: mDPO (arXiv 2406.11839) keeps 1 to 20 % of the picture
- Black: CHiP (arXiv 2501.16629); zero after normalisation, that is the processor's mean colour
- PixelMask, BlockMask: OPA-DPO (arXiv 2501.09695), 30 % of the pixels, or of blocks of 14 x 14
- NoImage: Dropout-NTP (arXiv 2411.10442), the image is not in the prompt at all
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from augment.geometric import Area, Ratios, Side, crop_box
from augment.view import ActsOn, Fixed, View
from parallax.settings.ranges import Share


@dataclass(frozen=True)
class Crop(View):
    """A random part of the image, enlarged to the image's own size."""

    name: ClassVar[str] = "crop"
    scale: Area  # share of the area
    ratio: Ratios  # width / height of the part

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        top, left, height, width = crop_box(*image.size, self.scale, self.ratio, generator)
        return tv.resized_crop(image, top, left, height, width, [image.height, image.width])


@dataclass(frozen=True)
class Black(Fixed):
    """Every normalised pixel is zero."""

    name: ClassVar[str] = "black"
    acts_on: ClassVar[ActsOn] = "tensor"

    def on_tensor(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        return torch.zeros_like(pixels)


@dataclass(frozen=True)
class NoImage(Fixed):
    """The prompt without its image and the image's tokens, for answers only. Where a picture is needed, an empty one."""

    name: ClassVar[str] = "no_image"

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        return Image.new("RGB", image.size, (127, 127, 127))


@dataclass(frozen=True)
class PixelMask(View):
    """A share of the pixels, in random places and in all colours at once, is zero."""

    name: ClassVar[str] = "pixel_mask"
    acts_on: ClassVar[ActsOn] = "tensor"
    share: Share  # of the pixels

    def on_tensor(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        return pixels * _kept(pixels.shape[1], pixels.shape[2], self.share, generator).to(pixels)


@dataclass(frozen=True)
class BlockMask(View):
    """A share of square blocks, in random places of a grid, is zero."""

    name: ClassVar[str] = "block_mask"
    acts_on: ClassVar[ActsOn] = "tensor"
    share: Share  # of the blocks
    block: Side  # pixels per side

    def on_tensor(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        height, width = pixels.shape[1:]
        rows, columns = -(-height // self.block), -(-width // self.block)
        kept = _kept(rows, columns, self.share, generator)
        whole_blocks = kept.repeat_interleave(self.block, 0).repeat_interleave(self.block, 1)
        return pixels * whole_blocks[:height, :width].to(pixels)


def _kept(rows: int, columns: int, share: float, generator: torch.Generator) -> Tensor:
    """True where a cell stays; exactly round(share * cells) do not. Shape: (rows, columns)."""
    cells = rows * columns
    kept = torch.ones(cells, dtype=torch.bool)
    kept[torch.randperm(cells, generator=generator)[: round(share * cells)]] = False
    return kept.reshape(rows, columns)
