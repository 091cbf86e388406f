"""What earlier runs left in a folder, as far as names of files tell; imports nothing slow."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path

MARKS = ("config.yaml", ".hydra/config.yaml")  # a folder with one of these is a run


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's."""
    return any((folder / mark).is_file() for mark in MARKS)


def holds_run(folder: Path) -> bool:
    """Whether a folder is a run's or has one below it. Links are followed, hidden folders are not."""
    if is_run(folder):
        return True
    below = (child for child in folder.iterdir() if child.is_dir() and child.name[:1] != ".") if folder.is_dir() else ()
    return any(map(holds_run, below))


def any_run(paths: Iterable[str]) -> bool:
    """Whether any of these folders or patterns has a run."""
    texts = [str(Path(path).expanduser()) for path in paths]
    return any(holds_run(Path(place)) for text in texts for place in (text, *glob.glob(text)))


def is_pair_set(folder: Path) -> bool:
    """Whether a folder is a pair set itself."""
    return (folder / "manifest.json").is_file() and (folder / "pairs.parquet").is_file()


def pair_pointers(folder: Path) -> list[Path]:
    """The files by which a run's stages point to the pair sets they built, the newest last."""
    found = sorted(folder.glob("stages/**/pairs.json"), key=lambda file: file.stat().st_mtime)
    return found or [file for file in (folder / "pairs.json",) if file.is_file()]
