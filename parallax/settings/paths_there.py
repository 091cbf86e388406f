"""What must lie at a path of the configuration, as far as names tell: a wrong one is refused before anything is loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from parallax.records.images import EXTENSIONS
from parallax.settings.comments import CONF
from parallax.settings.places import COMMAND
from parallax.settings.schema import FILE_GROUPS

ROWS = (".parquet", ".tar", ".jsonl", ".ndjson", ".json", ".arrow", ".feather", ".zip", ".csv", ".tsv")
COMPRESSED = (".gz", ".bz2", ".xz", ".tgz", ".tbz2", ".txz")
ENDINGS = {"rows or hub": (*ROWS, *COMPRESSED), "images": EXTENSIONS}  # of the files that are looked for, by kind


def place_problem(key: str, path: str, kind: str, plain: dict[str, Any]) -> str:
    """What is wrong with a path that must be there; "" for nothing. `kind` as in `ranges.Exists`."""
    place = Path(path).expanduser()
    if kind == "prompts":
        is_path = path.endswith((".yaml", ".yml")) or "/" in path
        if (place if is_path else CONF / "prompts" / f"{path}.yaml").is_file():
            return ""
        known = ", ".join(sorted(file.stem for file in (CONF / "prompts").glob("c*_*.yaml")))
        return f"{key}={path} names no prompt file; use {known}, or the path of a YAML file of that form."
    if kind == "model":
        return _model_problem(key, path, str(plain["model"].get("name")) if key == "model.path" else place.name)
    rows = kind == "rows or hub"
    if rows and has_magic(path) and not place.exists():
        return "" if glob(str(place), recursive=True) else f"{key}={path} matches no file (looked from {Path.cwd()})."
    if not place.exists():
        is_hub = rows and re.fullmatch(r"[\w\-.]+/[\w\-.]+", path)
        return "" if is_hub else f"{key}={path} does not exist (looked from {Path.cwd()})."
    return _content_problem(f"{key}={path}", place, kind)


def _content_problem(said: str, place: Path, kind: str) -> str:
    """What is wrong with what lies there: a folder without what is looked for, an empty file, one of no known kind."""
    wanted = ENDINGS.get(kind, ())
    if place.is_file():
        if kind in ("folder", "images"):
            return f"{said} is no folder; give the folder that the files lie in."
        if not place.stat().st_size:
            return f"{said} is an empty file."
        unknown = wanted and place.suffix and not place.name.lower().endswith((*wanted, ".zst", ".lz4", ".7z"))
        return f"{said} is of no kind that is known; files ending in {', '.join(ROWS)} can be read." if unknown else ""
    if kind == "file":
        return f"{said} is a folder; give the file itself."
    rows = kind == "rows or hub"  # which may be in a file without an ending
    if any(name.lower().endswith(wanted or "") or (rows and "." not in name) for name in _names(place)):
        return ""
    looked = f"; files ending in {', '.join(ROWS if rows else wanted)} are looked for" if wanted else ""
    return f"{said} holds no {'image' if kind == 'images' else 'file'}{looked}."


def _names(folder: Path) -> Iterator[str]:
    """The names of the files in a folder and below, hidden ones aside."""
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (name for name in files if not name.startswith("."))


def _model_problem(key: str, path: str, name: str) -> str:
    place = Path(path).expanduser()
    if not (path.startswith((".", "/", "~", "assets")) or path.count("/") > 1) or (place / "config.json").is_file():
        return ""
    root = os.environ.get("PARALLAX_ROOT")
    belongs = f"; it belongs in {Path(root) / 'assets' / name}" if root else ""
    made = f" `{COMMAND} experiment=make_{name}` makes the built-in model{belongs}." if name in FILE_GROUPS else ""
    return f"{key}={path} is no folder with a model in it (no config.json).{made}"
