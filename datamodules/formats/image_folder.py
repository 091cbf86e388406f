"""A folder of unlabelled images, and a pool of prompts from which each image draws its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from datamodules.formats.listed import Listed
from parallax.preference.prompts import PromptPool
from parallax.records import Sample, Turn
from parallax.records.images import EXTENSIONS, FileImage
from parallax.settings.ranges import Count, ImageFolder, Natural


class ImageFolderSource(Listed):
    """One sample per image file, by path in sorted order. The path is the sample's id.

    Args:
        path: the folder; its subfolders are searched too, linked folders are not entered.
        prompts: texts to draw from, at least one; which image gets which is fixed by `seed` and the image's path.
        limit: only the first so many images.
        seed: of the draw.
        name: how the source is called.
    """

    has_answers: ClassVar[bool] = False  # images alone

    def __init__(
        self,
        path: ImageFolder,
        prompts: Sequence[str],
        limit: Count | None = None,
        seed: Natural = 0,
        name: str = "image_folder",
    ) -> None:
        super().__init__(path, name, limit)
        if not self.path.is_dir():
            raise NotADirectoryError(f"data.path {self.path} is no folder; give the folder that holds the images")
        if not prompts:
            raise ValueError(
                "images without questions need a prompt pool and it is empty; choose one, e.g. prompts=describe"
            )
        self.pool, self.seed = PromptPool(list(prompts)), seed

    def _read(self) -> list[Sample]:
        samples: list[Sample] = []
        for image in self._files():
            self.rows += 1
            if self.limit is not None and len(samples) == self.limit:
                self.left_out["over_limit"] += 1
            elif not _is_text(image):
                self._set_aside(repr(image), "bad_image", "its name is not valid UTF-8; rename the file")
            else:
                turn = Turn(self.pool.draw(self.seed, image))
                samples.append(Sample(image, self.name, FileImage(str(self.path), image), (turn,)))
        if not samples:
            raise ValueError(f"{self.path} holds no image; files ending in {', '.join(EXTENSIONS)} are looked for")
        return samples

    def _files(self) -> Iterator[str]:
        found = []
        for folder, folders, files in os.walk(self.path):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in files:
                if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                    found.append(Path(folder, name).relative_to(self.path).as_posix())
        yield from sorted(found)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
