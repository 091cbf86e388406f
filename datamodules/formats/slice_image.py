"""Pictures inside other files: a stretch of a tar file, or of a temporary file that pictures written as text go to."""

from __future__ import annotations

import io
import os
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from parallax.records.fingerprint import bytes_digest
from parallax.records.images import upright_rgb, upright_size
from parallax.records.sample import BadImage
from parallax.records.temporary import temporary_folder

MOST_BYTES = 256 << 20  # of one member of an archive, unpacked

if TYPE_CHECKING:
    from PIL import Image


class InsideImage:
    """A picture that lies inside a file: a frozen dataclass with a `name`, or a `describe` of its own, that gives its bytes."""

    __slots__ = ()
    name: str

    def data(self) -> bytes:
        """The picture's own bytes."""
        raise NotImplementedError

    def load(self) -> Image.Image:
        return upright_rgb(io.BytesIO(self.data()), self.describe())

    def digest(self) -> str:
        return _digest(self)

    def size(self) -> tuple[int, int]:
        return upright_size(io.BytesIO(self.data()), self.describe())

    def describe(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class SliceImage(InsideImage):
    """A picture inside a file: `size_in_bytes` bytes from `offset` on."""

    file: str
    offset: int
    size_in_bytes: int
    name: str

    def data(self) -> bytes:
        check_size(self.name, self.size_in_bytes)
        with open(self.file, "rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.size_in_bytes)


def check_size(name: str, size: int) -> None:
    """Raise BadImage for a member that would take too much memory. size: in bytes."""
    if size > MOST_BYTES:
        raise BadImage(f"image {name!r} takes {size >> 20:,} MiB unpacked, more than {MOST_BYTES >> 20}")


class Spill:
    """A temporary file that pictures go to which came as text or bytes, so that memory holds none. It goes with the process."""

    def __init__(self) -> None:
        self._file = ""
        self._end = 0
        self._known: dict[str, tuple[int, int]] = {}  # digest -> offset, size

    def keep(self, data: bytes, name: str) -> SliceImage:
        """The picture as a handle. The same bytes are written once."""
        digest = bytes_digest(data)
        if digest not in self._known:
            if not self._file:
                handle, self._file = tempfile.mkstemp(prefix="images_", dir=temporary_folder())
                os.close(handle)
            with open(self._file, "ab") as stream:
                stream.write(data)
            self._known[digest] = (self._end, len(data))
            self._end += len(data)
        return SliceImage(self._file, *self._known[digest], name)


@lru_cache(maxsize=1_000_000)
def _digest(image: InsideImage) -> str:
    return bytes_digest(image.data())
