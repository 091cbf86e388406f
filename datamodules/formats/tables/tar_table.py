"""Tar shards in the manner of WebDataset: files that share a name up to the first dot are one row.

    000001.jpg   000001.json   000001.txt   ->   {"__key__": "000001", "jpg": <image>, "txt": "…", and every key of the json}

Only names and places are kept; a picture is read from its place in the tar file when it is looked at.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from datamodules.formats.tables.table import RowByRow, columns_of, object_in
from parallax.records.fingerprint import bytes_digest
from parallax.records.images import EXTENSIONS, upright_rgb, upright_size

if TYPE_CHECKING:
    from PIL import Image

Member = tuple[str, int, int]  # extension, offset in the tar file, size in bytes


@dataclass(frozen=True, slots=True)
class TarImage:
    """A picture inside a tar file: `size_in_bytes` bytes from `offset` on."""

    file: str
    offset: int
    size_in_bytes: int
    name: str

    def load(self) -> Image.Image:
        return upright_rgb(io.BytesIO(self.data()), self.name)

    def digest(self) -> str:
        return _digest(self)

    def size(self) -> tuple[int, int]:
        return upright_size(io.BytesIO(self.data()), self.name)

    def describe(self) -> str:
        return self.name

    def data(self) -> bytes:
        """The picture's own bytes."""
        with open(self.file, "rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.size_in_bytes)


class TarTable(RowByRow):
    """One or several uncompressed tar files. `columns` are those of the first row."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.entries: list[tuple[str, str, tuple[Member, ...]]] = []  # tar file, key, members
        for file in files:
            self.entries += _index(file)
        self.columns = columns_of(self)

    def __len__(self) -> int:
        return len(self.entries)

    def row(self, place: int) -> dict[str, Any]:
        file, key, members = self.entries[place]
        row: dict[str, Any] = {"__key__": key}
        for extension, offset, size in members:
            image = TarImage(file, offset, size, f"{Path(file).name}/{key}.{extension}")
            if f".{extension.rpartition('.')[2]}" in EXTENSIONS:
                row[extension] = image
            elif extension == "json":
                row |= object_in(image.data(), "its json")
            elif extension in ("txt", "text", "caption", "cls"):
                row[extension] = _text(image.data(), extension)
        return row

    def where(self, place: int) -> str:
        file, key, _ = self.entries[place]
        return f"{Path(file).name}, {key}"


def _index(file: Path) -> list[tuple[str, str, tuple[Member, ...]]]:
    """Members by key, in the order in which keys first occur."""
    found: dict[str, list[Member]] = {}
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if member.isfile() and not name.startswith(".") and "." in name:
                    stem, _, extension = name.partition(".")
                    key = (PurePosixPath(member.name).parent / stem).as_posix()
                    found.setdefault(key, []).append((extension.lower(), member.offset_data, member.size))
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"{file} cannot be read as a tar file ({error}); it is incomplete or compressed: fetch it again, or unpack .gz first"
        ) from error
    size, last = (
        file.stat().st_size,
        max((offset + size for rows in found.values() for _, offset, size in rows), default=0),
    )
    if last > size:
        raise ValueError(
            f"{file} breaks off after {size:,} bytes, and its last member ends at {last:,}; fetch it again"
        )
    return [(str(file), key, tuple(members)) for key, members in found.items()]


def _text(data: bytes, extension: str) -> str:
    try:
        return data.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"its {extension} is not UTF-8 text") from error


@lru_cache(maxsize=1_000_000)
def _digest(image: TarImage) -> str:
    return bytes_digest(image.data())
