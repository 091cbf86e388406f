"""Files and folders that are whole or absent.

Everything is written under a temporary name in the same folder, flushed to disk, and renamed. A reader never sees half
a file, and a writer that dies leaves only a name starting with `.tmp-`, which all our readers ignore.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp-"  # how the names of unfinished files and folders start


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Give a temporary path to write to; on a clean exit it becomes `path`, on an error it is removed."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(target)
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, target)
        flush(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Give a temporary folder to fill; on a clean exit it becomes `path`.

    If another process finished the same folder first, theirs is kept and ours is removed: folders written this way are
    named after their content, so both hold the same.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(target)
    temporary.mkdir()
    try:
        yield temporary
        for written in [*temporary.rglob("*"), temporary]:
            flush(written)
        try:
            os.rename(temporary, target)
        except OSError:
            if not target.is_dir():
                raise
        flush(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def replaced_folder(path: Path | str) -> Iterator[Path]:
    """Give a temporary folder to fill; on a clean exit it takes the place of `path` and of what was there before.

    For folders that are not named after their content. Between the old one's going and the new one's coming there is a moment
    without either; never one with half a folder.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = _temporary_name(target), _temporary_name(target)
    temporary.mkdir()
    try:
        yield temporary
        for written in [*temporary.rglob("*"), temporary]:
            flush(written)
        if target.exists():
            os.rename(target, old)
        os.rename(temporary, target)
        flush(target.parent)
    finally:
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)


def atomic_write_bytes(path: Path | str, data: bytes) -> None:
    """Write bytes; the file is whole or absent (or as it was)."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text, half characters as `?`; the file is whole or absent (or as it was)."""
    atomic_write_bytes(path, text.encode("utf-8", "replace"))


def atomic_write_json(path: Path | str, value: object) -> None:
    """Write plain data as readable JSON with sorted keys and a final newline. Numbers JSON does not have come as null."""
    text = json.dumps(finite(value), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    atomic_write_text(path, text + "\n")


def finite(value: object) -> Any:
    """Plain data with null for what JSON has no number for: not a number, infinite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def is_temporary(path: Path) -> bool:
    """True for the unfinished leftovers of a writer."""
    return path.name.startswith(TEMPORARY)


def remove_leftovers(folder: Path | str) -> int:
    """Remove what killed writers left unfinished below a folder in which nobody else writes now; how many there were."""
    found = [path for path in Path(folder).rglob(f"{TEMPORARY}*") if not any(map(is_temporary, path.parents))]
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(found)


def _temporary_name(target: Path) -> Path:
    return target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")


def flush(path: Path) -> None:
    """fsync a file or a folder: after this it survives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
