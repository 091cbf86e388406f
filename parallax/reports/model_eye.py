"""How an image looks to a model: at the size and with the normalisation of its processor, turned back into colours.

Noise is drawn on normalised pixels, so how strong it looks depends on the processor's standard deviation: with 0.5 it is
about twice as strong as with CLIP's 0.27. The numbers are read from a local checkpoint's files; no model is loaded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

    from augment.view import View

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ModelEye:
    """A processor's normalisation and the longest side, in pixels, at which the model is shown an image."""

    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    side: int = 336

    @classmethod
    def of(cls, model_path: str | Path) -> ModelEye:
        """As the processor's files in the folder `model_path` say; CLIP's at 336 pixels where there are none."""
        for name in ("processor_config.json", "preprocessor_config.json"):
            file = Path(model_path) / name
            if file.is_file():
                settings = json.loads(file.read_text(encoding="utf-8"))
                return cls._from_settings(settings.get("image_processor", settings))
        return cls()

    @classmethod
    def _from_settings(cls, settings: dict[str, Any]) -> ModelEye:
        size = settings.get("crop_size") or settings.get("size") or {}
        side = max(size.values()) if isinstance(size, dict) and "longest_edge" not in size and size else None
        return cls(
            mean=tuple(settings.get("image_mean") or cls.mean),
            std=tuple(settings.get("image_std") or cls.std),
            side=int(side or cls.side),
        )

    def sees(self, image: Image.Image, view: View, seed: int) -> Image.Image:
        """The image under a view, as RGB with `side` pixels on its longest side."""
        import numpy as np
        import torch
        from PIL import Image

        from augment.view import generator_for

        generator = generator_for(seed)
        seen = _scaled(view.on_image(image.convert("RGB"), generator), self.side, Image.Resampling.BICUBIC)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        normalised = (torch.from_numpy(np.array(seen)).permute(2, 0, 1).float() / 255 - mean) / std  # (3, H, W)
        corrupted = view.on_tensor(normalised, generator)
        if corrupted is normalised:
            return seen
        coloured = ((corrupted * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
        return Image.fromarray(coloured.permute(1, 2, 0).numpy())


def _scaled(image: Image.Image, side: int, resampling: Image.Resampling) -> Image.Image:
    """With its longest side `side` pixels long, larger or smaller than it was."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image if size == image.size else image.resize(size, resampling)
