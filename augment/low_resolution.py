"""STIC's low resolution (arXiv 2405.19716, section 4): the image shrunk until little but colour patches is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from augment.geometric import Side
from augment.view import View


@dataclass(frozen=True)
class LowResolution(View):
    """Shrinks the shortest side to `side` pixels, aspect kept, bilinear. An image that is that small already stays."""

    name: ClassVar[str] = "low_resolution"
    side: Side = 20  # pixels of the shortest side

    @property
    def is_random(self) -> bool:
        return False

    def on_image(self, image: Image.Image, generator: torch.Generator) -> Image.Image:
        return tv.resize(image, [self.side]) if min(image.size) > self.side else image
