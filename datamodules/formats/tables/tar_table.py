"""Tar shards in the manner of WebDataset: files that share a name up to the first dot are one row.

    000001.jpg   000001.json   000001.txt   ->   {"__key__": "000001", "jpg": <image>, "txt": "…", and every key of the json}

Only names and places are kept; a picture is read from its place in the tar file when it is looked at.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.formats.slice_image import SliceImage
from datamodules.formats.tables.table import RowByRow, check_members, columns_of, member_value

LARGEST_HEADER = 1 << 20  # bytes of a long name or of pax headers

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
        _check_sizes(file)
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
    check_members(file, (f"{key}.{extension}" for key, members in found.items() for extension, _, _ in members))
    return [(str(file), key, tuple(members)) for key, members in found.items()]


def _check_sizes(file: Path) -> None:
    """Raise TarError for sizes that no tar file has: below nothing, or headers of more than a mebibyte.

    A negative size sends `tarfile` of older Pythons back to where it was, for ever, and has it read the rest of the file at once.
    """
    following: int | None = None  # size of the next member, where a header before it says so
    with open(file, "rb") as stream:
        while len(block := stream.read(tarfile.BLOCKSIZE)) == tarfile.BLOCKSIZE:
            if tarfile.nti(block[148:156]) not in tarfile.calc_chksums(block):  # type: ignore[attr-defined]
                return  # the end, or what `tarfile` stops at too
            size: int = tarfile.nti(block[124:136])  # type: ignore[attr-defined]
            kind = block[156:157]
            extra = kind in (b"x", b"g", b"X", b"L", b"K")
            if size < 0 or (extra and size > LARGEST_HEADER):
                raise tarfile.ReadError(f"a member has the size {size:,}")
            padded = -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            if extra:
                said = re.findall(rb"(?:^|\n)\d+ size=(-?\d+)\n", stream.read(padded)) if kind != b"L" else []
                following = int(said[-1]) if said else following
                if following is not None and following < 0:
                    raise tarfile.ReadError(f"a member has the size {following:,}")
                continue
            skipped = -(-(size if following is None else following) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            following = None
            stream.seek(skipped, 1)
