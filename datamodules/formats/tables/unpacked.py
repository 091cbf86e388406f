"""Compressed files, unpacked into a private temporary folder: rows are found by number only in what is not compressed.

A small file can stand for any amount, so that what comes out is bounded, by the file's size and by what the disk has free.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from functools import cache
from io import BufferedIOBase
from pathlib import Path

from parallax.records.temporary import temporary_folder

OPENED: dict[str, Callable[[Path], BufferedIOBase]] = {".gz": gzip.GzipFile, ".bz2": bz2.BZ2File, ".xz": lzma.LZMAFile}
ALWAYS = 256 << 20  # bytes that any file may unpack to; beyond them,
MOST_TIMES = 200  # as many times its own size (texts shrink to a tenth, seldom to a fiftieth),
SHARE = 0.8  # and never more than this part of what the disk has free
SHORT = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".txz": ".tar.xz"}


def inner_name(file: Path) -> str:
    """The name without the ending of a compression: `rows.jsonl` of `rows.jsonl.gz`."""
    name = file.with_suffix(SHORT.get(file.suffix.lower(), file.suffix)).name
    return name.rpartition(".")[0] if Path(name).suffix.lower() in OPENED else name


def unpacked(file: Path) -> Path:
    """The file itself, or where its content lies unpacked as long as the process lives.

    Raises ValueError, in words, for a damaged file and for a disk without room.
    """
    return file if inner_name(file) == file.name else _unpacked(file.absolute(), os.stat(file).st_mtime_ns)


@cache
def _unpacked(file: Path, _changed: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="unpacked_", dir=temporary_folder()))
    target, ending = folder / inner_name(file), SHORT.get(file.suffix.lower(), file.suffix.lower())
    try:
        with OPENED[Path(f"x{ending}").suffix](file) as packed, open(target, "wb") as stream:
            most = max(ALWAYS, MOST_TIMES * file.stat().st_size)
            most = min(most, int(SHARE * shutil.disk_usage(folder).free))
            while part := packed.read(1 << 20):
                if stream.tell() + len(part) > most:
                    raise OSError(f"more than {most >> 20:,} MiB came out of {file.stat().st_size:,} bytes")
                stream.write(part)
    except (EOFError, lzma.LZMAError, zlib.error, OSError) as error:
        shutil.rmtree(folder)
        raise ValueError(
            f"{file} cannot be unpacked ({error}); it is damaged, or the disk of {folder.parent.parent} is too full"
        ) from error
    return target
