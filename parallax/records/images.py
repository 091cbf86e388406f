"""Images in files: opened inside one root folder only, upright, in RGB, or refused with the reason.

How each kind becomes RGB: EXIF rotation is applied; transparency (RGBA, LA, palette or RGB with a transparent colour) is
laid on white, as viewers show it; 16-bit greyscale keeps its upper eight bits' worth of range (divided by 257, not clipped);
CMYK is converted; of an animation or a multi-page file the first frame counts.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

from annotated_types import Ge

from parallax.records.fingerprint import file_digest, fingerprint
from parallax.records.sample import BadImage, ImageRef
from parallax.records.time_limit import TookTooLong, time_limit

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # never EPS and its like, which run programs
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
ORIENTATION = 0x0112  # the EXIF tag
MAX_PIXELS = 150_000_000  # larger images are refused before they are decoded,
MAX_BYTES = 1536 << 20  # and so are those that would take more memory than this
BYTES_PER_PIXEL = {
    "1": 6,
    "L": 6,
    "P": 16,
    "I;16": 12,
    "I": 14,
    "F": 14,
    "LA": 20,
    "PA": 20,
    "La": 20,
    "RGBA": 20,
    "RGBa": 20,
}
ROWS = 256  # of a greyscale picture brought to eight bits at a time
DECODE_SECONDS = 60.0  # one that takes longer is refused


@dataclass(frozen=True, slots=True)
class FileImage:
    """An image file inside `root`. `path` is relative to it, or absolute and below it.

    Nothing is opened until `load` or `digest`; both raise `BadImage` for a path that leaves the root (`..`, an absolute path
    elsewhere, a symbolic link out), a missing, empty, corrupt or truncated file, or more than `max_pixels` pixels.
    """

    root: str
    path: str
    max_pixels: Annotated[int, Ge(1)] = MAX_PIXELS

    def load(self) -> Image.Image:
        file = self.locate()
        with open(file, "rb") as stream:
            return upright_rgb(stream, self.path, self.max_pixels)

    def digest(self) -> str:
        file = self.locate()
        status = os.stat(file)
        return _digest(str(file), status.st_mtime_ns, status.st_size)

    def size(self) -> tuple[int, int]:
        with open(self.locate(), "rb") as stream:
            return upright_size(stream, self.path)

    def describe(self) -> str:
        return self.path

    def locate(self) -> Path:
        """The file on disk, checked to lie inside the root and to hold something."""
        if "://" in self.path:
            raise BadImage(
                f"image {self.path!r} is an address, not a file; download it and give its path below the root"
            )
        if "\x00" in self.path or not self.path.strip():
            raise BadImage(f"image path {self.path!r} is no file name; give a path below the image root {self.root}")
        root = _real_root(self.root)
        try:
            real = Path(root, self.path).resolve()
        except (OSError, RuntimeError) as error:  # a name too long, a loop of links
            raise BadImage(f"image {self.path!r} cannot be looked up ({error})") from error
        if not real.is_relative_to(root) and not real.is_relative_to(_blobs(root)):
            raise BadImage(f"image {self.path!r} leaves the image root {self.root}; only files inside it are opened")
        try:
            if not real.is_file():
                raise BadImage(f"image {self.path!r} is missing below {self.root}")
            if real.stat().st_size == 0:
                raise BadImage(f"image {self.path!r} is an empty file (0 bytes)")
        except OSError as error:
            raise BadImage(f"image {self.path!r} cannot be looked up ({error})") from error
        return real


@lru_cache(maxsize=64)
def _blobs(root: Path) -> Path:
    """Where the files of a snapshot in the hub's cache are links to; of any other root the root itself."""
    parts = root.parts
    at = len(parts) - 1 - parts[::-1].index("snapshots") if "snapshots" in parts else 0
    return Path(*parts[:at], "blobs") if at else root


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Several images as one picture for people to look at, each scaled to the height of the first."""

    images: tuple[ImageRef, ...]

    def load(self) -> Image.Image:
        return side_by_side([image.load() for image in self.images])

    def digest(self) -> str:
        return fingerprint([image.digest() for image in self.images])

    def describe(self) -> str:
        return ", ".join(image.describe() for image in self.images)


def together(images: Sequence[ImageRef]) -> ImageRef:
    """One image as it is, several side by side."""
    return images[0] if len(images) == 1 else SideBySide(tuple(images))


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures in a row, scaled to the height of the first."""
    from PIL import Image

    height = pictures[0].height
    row = [picture.resize((max(1, round(picture.width * height / picture.height)), height)) for picture in pictures]
    whole, left = Image.new("RGB", (sum(picture.width for picture in row), height)), 0
    for picture in row:
        whole.paste(picture, (left, 0))
        left += picture.width
    return whole


def upright_rgb(stream: IO[bytes], name: str, max_pixels: Annotated[int, Ge(1)] = MAX_PIXELS) -> Image.Image:
    """Decode an image to upright RGB. Raises `BadImage`; `name` is only for its message."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings(), time_limit(DECODE_SECONDS):
            warnings.simplefilter("ignore")
            with Image.open(stream, formats=FORMATS) as opened:
                if (pixels := opened.width * opened.height) > max_pixels:
                    raise BadImage(
                        f"image {name!r} has {opened.width} x {opened.height} = {pixels:,} pixels, more than {max_pixels:,}"
                    )
                if (needed := pixels * BYTES_PER_PIXEL.get(opened.mode, 12)) > MAX_BYTES:
                    raise BadImage(
                        f"image {name!r} ({opened.mode}, {opened.width} x {opened.height}) takes about {needed >> 20:,} MiB to "
                        f"decode, more than {MAX_BYTES >> 20:,}; shrink it first"
                    )
                opened.seek(0)
                opened.load()
                ImageOps.exif_transpose(opened, in_place=True)
                return _to_rgb(opened)
    except Image.DecompressionBombError as error:
        raise BadImage(f"image {name!r} is too large to open safely ({error})") from error
    except BadImage:
        raise
    except TookTooLong as error:
        raise BadImage(
            f"image {name!r} takes longer than {DECODE_SECONDS:g} s to decode; it is damaged or too large"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise BadImage(
            f"image {name!r} is corrupt or of an unknown format; {', '.join(FORMATS)} can be read"
        ) from error
    except Exception as error:  # decoders raise whatever they like on damaged data
        raise BadImage(f"image {name!r} is corrupt or cut off ({type(error).__name__}: {error})") from error


def upright_size(stream: IO[bytes], name: str) -> tuple[int, int]:
    """Width and height of an image as `upright_rgb` would give it, from its header; pixels are not decoded."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(stream, formats=FORMATS) as opened:
                turned = opened.getexif().get(ORIENTATION) in (5, 6, 7, 8)  # transposed or turned by a quarter
                return (opened.height, opened.width) if turned else opened.size
    except Exception as error:  # decoders raise whatever they like on damaged data
        raise BadImage(f"image {name!r} is corrupt or cut off ({type(error).__name__}: {error})") from error


def image_size(image: ImageRef) -> tuple[int, int]:
    """Width and height in pixels: what the image knows of itself, else by decoding it. Raises `BadImage`."""
    known = getattr(image, "size", None)
    size: tuple[int, int] = known() if known is not None else image.load().size
    return size


def _to_rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    plain: Image.Image = image.convert("RGB")  # also of RGB a fresh image: no lazy file behind it
    plain.info = {}  # and no metadata
    return plain


def _eight_bits(image: Image.Image) -> Image.Image:
    """Greyscale of more than eight bits or of floats to `L`. 65535 and 1.0 become 255; larger ranges are scaled by their top."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image)
    white = top = 1.0 if image.mode == "F" else 65535.0
    blocks = [slice(row, row + ROWS) for row in range(0, len(values), ROWS)]
    with np.errstate(invalid="ignore"):
        highest = (
            np.nan_to_num(values[block].astype(np.float64), nan=0.0, posinf=white, neginf=0.0).max() for block in blocks
        )
        top = max([top, *map(float, highest)])
    small = np.empty(values.shape, np.uint8)
    for block in blocks:
        finite = np.nan_to_num(values[block].astype(np.float64), nan=0.0, posinf=white, neginf=0.0)
        small[block] = np.clip(finite * (255.0 / top), 0, 255).round().astype(np.uint8)
    return Image.fromarray(small, "L")


@lru_cache(maxsize=64)
def _real_root(root: str) -> Path:
    return Path(root).resolve()


@lru_cache(maxsize=1_000_000)
def _digest(file: str, modified_ns: int, size: int) -> str:
    """Digest of a file as it is at this time and size: a changed file is read again."""
    return file_digest(file)
