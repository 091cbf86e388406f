"""Which files of a folder belong to a split, by the words in their names, as the hub reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

WORDS = {  # split -> words that name it; a word stands between characters that are no letters
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def of_split(files: Sequence[Path], folder: Path, split: str) -> list[Path]:
    """The files of `split`, or all where none names a split and the training data is asked for.

    Raises ValueError with the splits there are.
    """
    if split == "all":
        return list(files)
    named = {file: _split_of(file.relative_to(folder).as_posix(), split) for file in files}
    found = [file for file, own in named.items() if own == split]
    if not found and split == "train":
        found = [file for file, own in named.items() if own is None]
    if not found:
        there = sorted(
            {own for own in named.values() if own is not None} | ({"train"} if None in named.values() else set())
        )
        raise ValueError(f"{folder} has no split {split!r} (data.split); it has {', '.join(there)}, or all")
    return found


def _split_of(name: str, wanted: str) -> str | None:
    """The split a path names; the last word counts, so that a file's own name goes before its folder's."""
    known = {word: split for split, words in WORDS.items() for word in words} | {wanted.lower(): wanted}
    words = [known[word] for word in re.split(r"[^a-z]+", name.lower()) if word in known]
    if re.search(rf"(?<![A-Za-z0-9]){re.escape(wanted)}(?![A-Za-z0-9])", name):
        return wanted
    return words[-1] if words else None
