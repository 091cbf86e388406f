"""Images of pairs for those who read them without us: copied as they are, or as PNG where there is no file to copy."""

from __future__ import annotations

import io
from pathlib import Path, PurePosixPath
from typing import Literal

from parallax.records import ImageRef
from parallax.records.images import FileImage

How = Literal["files", "embedded", "paths"]
FOLDER = "images"


def original_bytes(image: ImageRef) -> bytes:
    """The image as a file: its own bytes, unchanged, or a PNG of a picture that is drawn. Raises `BadImage`."""
    if isinstance(image, FileImage):
        return image.locate().read_bytes()
    if hasattr(image, "data"):
        return bytes(image.data())
    stream = io.BytesIO()
    image.load().save(stream, "PNG")
    return stream.getvalue()


class ImageFolder:
    """Writes each image once below `folder`/images and gives the path that a row names it by, relative to `folder`.

    Args:
        folder: of the export.
        copy: False writes nothing and names files by their own paths below their own root.
    """

    def __init__(self, folder: Path, *, copy: bool = True) -> None:
        self.folder, self.copy = folder, copy
        self.names: dict[ImageRef, str] = {}
        self._taken: set[str] = set()

    def name_of(self, image: ImageRef) -> str:
        """Raises `BadImage`, or ValueError for an image that is no file where no copy is to be made."""
        if image not in self.names:
            if not self.copy:
                if not isinstance(image, FileImage):
                    raise ValueError(
                        f"image {image.describe()!r} is no file of its own; use task.images=files or embedded"
                    )
                image.locate()
                self.names[image] = image.path
            else:
                self.names[image] = self._write(image)
        return self.names[image]

    def _write(self, image: ImageRef) -> str:
        data = original_bytes(image)
        if isinstance(image, FileImage) and not PurePosixPath(image.path).is_absolute():
            name = (PurePosixPath(FOLDER) / image.path).as_posix()
        else:
            name = f"{FOLDER}/{image.digest()[:16]}.{_suffix(data)}"
        if name in self._taken:  # the same path below another root
            name = f"{FOLDER}/{image.digest()[:16]}.{_suffix(data)}"
        self._taken.add(name)
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return name


def _suffix(data: bytes) -> str:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as opened:
        return {"JPEG": "jpg"}.get(str(opened.format), str(opened.format).lower())
