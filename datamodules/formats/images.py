"""A folder of images by name, for readers that are given image names and need images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from parallax.records.images import FileImage


@dataclass(frozen=True, slots=True)
class ImageRoot:
    """Called with a path relative to `root`, gives the image there. No path may lead out of it."""

    root: str

    def __call__(self, path: str) -> FileImage:
        return FileImage(str(Path(self.root).expanduser()), path)
