"""What rows name pictures by, as handles: paths below a folder, pictures inside the table, base64 and data URIs."""

from __future__ import annotations

import base64
import binascii
import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from datamodules.formats.listed import Unusable, existing_root, image_path, shortened
from datamodules.formats.slice_image import Spill
from parallax.records import ImageRef
from parallax.records.images import FileImage
from parallax.records.sample import is_image

DATA_URI = re.compile(r"data:(?:image/[\w.+-]+)?(?:;[\w=.+-]+)*;base64,", re.IGNORECASE)
BEGINNINGS = (
    "/9j/",
    "R0lGOD",
    "UklGR",
    "SUkq",
    "TU0AK",
    "Qk",
)  # of JPEG, GIF, WebP, TIFF, BMP in base64
URL_SAFE = str.maketrans("-_", "+/")  # the other alphabet of base64
SHORTEST = (
    200  # characters of base64 that stands alone: below that it is a name, but for PNG, whose beginning is no word
)
PNG = "iVBORw0KGgo"
LARGEST = 64 << 20  # bytes of a picture that stands in a row


class FoundImages:
    """Gives the handle for whatever a row names a picture by.

    Args:
        image_root: folder that paths are relative to; None where pictures are inside the table.
        names_only: take only the last part of every path.
        prefix: put before each file's name.
        beside: where paths are looked for without an image root: the folder of the rows.
    """

    def __init__(
        self, image_root: Path | str | None, names_only: bool = False, prefix: str = "", beside: Path | None = None
    ) -> None:
        self.image_root = existing_root(image_root) if image_root is not None else None
        self.beside = beside
        self.names_only, self.prefix = names_only, prefix
        self._spill = Spill()
        self._dropped: dict[
            str, int | None
        ] = {}  # folder of a path -> how many of its leading parts are not below the root

    def __call__(self, value: object, where: str) -> ImageRef:
        """The picture. `where` names one that has no name of its own. Raises `Unusable`."""
        if isinstance(value, Mapping):
            data = value.get("bytes") or value.get("base64")
            value = data if data else value.get("path") or value.get("url") or value.get("image")
            if data and isinstance(data, str):  # bytes, as JSON can hold them
                return self._inline(_decoded(_as_base64(data) or data), where)
        if isinstance(value, bytes | bytearray):
            return self._inline(bytes(value), where)
        if isinstance(value, str):
            if written := _as_base64(value):
                return self._inline(_decoded(written), where)
            return self._file(value)
        if is_image(value):
            return value
        reason = "no_image" if value is None or value == "" else "bad_row"
        raise Unusable(reason, f"its image is {shortened(value)}; a path below the image root is needed")

    def _inline(self, data: bytes, where: str) -> ImageRef:
        _check_size(len(data))
        return self._spill.keep(data, where)

    def _file(self, value: str) -> ImageRef:
        path = image_path(unquote(value[7:]) if value.startswith("file://") else value).strip()
        root, path = str(self.image_root or self.beside), with_prefix(path, self.prefix)
        if self.names_only and self.image_root is not None:
            return FileImage(root, PurePosixPath(path.replace("\\", "/")).name)
        path = _as_stored(root, path)
        folder = os.path.dirname(path)
        if folder not in self._dropped:
            self._dropped[folder] = _leading(root, path)
        if (dropped := self._dropped[folder]) is not None:
            path = "/".join([part for part in PurePosixPath(path).parts if part != "/"][dropped:])
        if self.image_root is None and (self.beside is None or not os.path.isfile(os.path.join(root, path))):
            raise Unusable(
                "no_image", f"its image is the file {shortened(value)}; set data.image_root to the folder it lies in"
            )
        return FileImage(root, path)


def _as_stored(root: str, path: str) -> str:
    """A path of Windows with slashes; one whose letters are composed otherwise on this disk as they are there."""
    if "\\" in path and not os.path.isfile(os.path.join(root, path)):
        path = re.sub(r"^[A-Za-z]:", "", path).replace("\\", "/")
        image_path(path)  # what leaves the root by backslashes too
    if path.isascii() or os.path.isfile(os.path.join(root, path)):
        return path
    forms = (unicodedata.normalize(form, path) for form in ("NFC", "NFD"))
    return next((form for form in forms if os.path.isfile(os.path.join(root, form))), path)


def with_prefix(image: str, prefix: str) -> str:
    """The path with `prefix` before its last part, unless that has it already."""
    folder, slash, file = image.rpartition("/")
    return image if file.startswith(prefix) else f"{folder}{slash}{prefix}{file}"


def _leading(root: str, path: str) -> int | None:
    """How many folders at the beginning of a path are its author's own: with so many fewer it is found below the root.

    None where the path is to stay as it is.
    """
    if not path.startswith("/") and os.path.isfile(os.path.join(root, path)):
        return None
    if path.startswith("/") and os.path.realpath(path).startswith(os.path.realpath(root) + os.sep):
        return None
    parts = [part for part in PurePosixPath(path).parts if part != "/"]
    return next((n for n in range(len(parts)) if os.path.isfile(os.path.join(root, *parts[n:]))), None)


def _as_base64(value: str) -> str:
    """The base64 in a data URI or standing alone; empty for a path."""
    if value[:5].lower() == "data:" and (found := DATA_URI.match(value)):
        return value[found.end() :]
    known = value.startswith(PNG) or (len(value) >= SHORTEST and value.startswith(BEGINNINGS))
    is_written = known and "." not in value[-8:]
    return value if is_written else ""


def _decoded(text: str) -> bytes:
    if len(text) * 3 // 4 > LARGEST:
        raise Unusable(
            "bad_image", f"its image takes {len(text) * 3 // 4 >> 20} MiB; at most {LARGEST >> 20} are read from a row"
        )
    try:
        plain = "".join(text.split()).translate(URL_SAFE).rstrip("=")
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unusable("bad_image", f"its image is base64 that cannot be decoded ({error})") from error


def _check_size(size: int) -> None:
    if size > LARGEST:
        raise Unusable("bad_image", f"its image takes {size >> 20} MiB; at most {LARGEST >> 20} are read from a row")
