"""Tar shards in the manner of WebDataset: files that share a name up to the first dot are one row.

    000001.jpg   000001.json   000001.txt   ->   {"__key__": "000001", "jpg": <image>, "txt": "…", and every key of the json}

Only names and places are kept; a picture is read from its place in the tar file when it is looked at.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.formats.slice_image import SliceImage
from datamodules.formats.tables.table import RowByRow, columns_of, member_value

Member = tuple[str, int, int]  # extension, offset in the tar file, size in bytes


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
            image = SliceImage(file, offset, size, f"{Path(file).name}/{key}.{extension}")
            row |= member_value(extension, image, image.data)
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
