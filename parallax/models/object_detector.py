"""Whether an object that somebody names is in a picture: open-vocabulary detectors of transformers, such as Grounding DINO
(arXiv 2303.05499) and OWL-ViT (arXiv 2205.06230).

Each pair of picture and name is a row of its own, so that a name's score does not depend on what else is looked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch

from parallax.models.image_text import Dtype, PairModel
from parallax.records import ImageRef, Sample
from parallax.settings.ranges import Count, ModelPath, Share


class ObjectDetector(PairModel):
    """An open-vocabulary detector on disk or on the Hugging Face hub.

    Args:
        path, revision, dtype, batch_size, cache_dir: as for `PairModel`; scores are kept in `detections/`.
        threshold: an object is there where some box has at least this score, 0 to 1.
    """

    auto: ClassVar[str] = "AutoModelForZeroShotObjectDetection"
    folder: ClassVar[str] = "detections"

    def __init__(
        self,
        path: ModelPath,
        *,
        threshold: Share,
        revision: str | None = None,
        dtype: Dtype = "auto",
        batch_size: Count,
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__(path, revision=revision, dtype=dtype, batch_size=batch_size, cache_dir=cache_dir)
        self.threshold = threshold

    def found(self, asked: Sequence[tuple[Sample, str]], device: torch.device | str) -> list[bool | None]:
        """Whether each named object is in its sample's picture, in order."""
        scores = self.values([(sample.image, name) for sample, name in asked], device)
        return [score >= self.threshold for score in scores]

    def digest(self) -> str:
        return f"{super().digest()}/{self.threshold:g}"

    @torch.no_grad()
    def _compute(self, pairs: Sequence[tuple[ImageRef, str]], device: torch.device | str) -> list[float]:
        """The best score of any box for each name."""
        self._load(device)
        wording = "a photo of a {}" if "owl" in self._network.config.model_type else "{}."
        scores: list[float] = []
        for start in range(0, len(pairs), self.batch_size):
            some = pairs[start : start + self.batch_size]
            inputs = self._processor(
                images=[image.load() for image, _ in some], text=[wording.format(name) for _, name in some],
                padding=True, truncation=True, return_tensors="pt",
            ).to(self._network.device)  # fmt: skip
            inputs["pixel_values"] = inputs["pixel_values"].to(self._network.dtype)
            scores += self._network(**inputs).logits.float().sigmoid().amax((1, 2)).cpu().tolist()
        return scores
