"""Zip files as shards: members that share a name up to the first dot are one row, as in tar shards."""

from __future__ import annotations

import lzma
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.formats.slice_image import InsideImage, check_size
from datamodules.formats.tables.table import RowByRow, check_members, columns_of, member_value
from parallax.records.sample import BadImage


@dataclass(frozen=True, slots=True)
class ZipImage(InsideImage):
    """A picture that is a member of a zip file."""

    file: str
    member: str

    def describe(self) -> str:
        return f"{Path(self.file).name}/{self.member}"

    def data(self) -> bytes:
        try:
            archive = _opened(self.file, os.getpid())
            check_size(self.describe(), archive.getinfo(self.member).file_size)
            return archive.read(self.member)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError) as error:
            raise BadImage(f"image {self.describe()!r} cannot be unpacked ({error})") from error


class ZipTable(RowByRow):
    """One or several zip files. `columns` are those of the first row."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.entries = [(str(file), key, members) for file in files for key, members in _index(file).items()]
        self.columns = columns_of(self)

    def __len__(self) -> int:
        return len(self.entries)

    def row(self, place: int) -> dict[str, Any]:
        file, key, members = self.entries[place]
        row: dict[str, Any] = {"__key__": key}
        for extension, member in members:
            image = ZipImage(file, member)
            row |= member_value(extension, image, image.data)
        return row

    def where(self, place: int) -> str:
        file, key, _ = self.entries[place]
        return f"{Path(file).name}, {key}"


def _index(file: Path) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    names = _opened(str(file), os.getpid()).namelist()
    check_members(file, names)
    for name in names:
        base = PurePosixPath(name).name
        if base and not base.startswith(".") and "." in base and not name.endswith("/"):
            stem, _, extension = base.partition(".")
            key = (PurePosixPath(name).parent / stem).as_posix()
            found.setdefault(key, []).append((extension.lower(), name))
    return found


@lru_cache(maxsize=8)
def _opened(file: str, process: int) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise ValueError(f"{file} cannot be read as a zip file ({error}); it is incomplete, fetch it again") from error
