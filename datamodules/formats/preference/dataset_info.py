"""LLaMA-Factory's `dataset_info.json`: how the columns and tags of a file beside it are called.

What it renames is put back under the names that `llama_factory` reads, so that it stands in one place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "dataset_info.json"
SHAREGPT = {
    "messages": "conversations",
    "system": "system",
    "images": "images",
    "chosen": "chosen",
    "rejected": "rejected",
}
ALPACA = {
    "prompt": "instruction", "query": "input", "history": "history", "system": "system", "images": "images",
    "chosen": "chosen", "rejected": "rejected",
}  # fmt: skip
SPEAKERS = {"user_tag": "human", "assistant_tag": "gpt", "system_tag": "system"}


@dataclass(frozen=True, slots=True)
class Declared:
    """What the entry of one file says."""

    file: Path
    columns: Mapping[str, str]  # column of the file -> column as we read it
    role: str = "from"
    content: str = "value"
    speakers: Mapping[str, str] | None = None  # tag in the file -> our word for it

    def row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row under the names we read."""
        renamed = {self.columns.get(name, name): value for name, value in row.items()}
        return {name: self._said(value) for name, value in renamed.items()} if self.speakers is not None else renamed

    def _said(self, value: object) -> Any:
        if isinstance(value, list):
            return [self._said(item) for item in value]
        if isinstance(value, Mapping) and self.role in value and self.content in value:
            assert self.speakers is not None
            return {"from": self.speakers.get(value[self.role], value[self.role]), "value": value[self.content]}
        return value


def declared(path: Path, name: str | None = None) -> Declared | None:
    """The entry for a file, or the one called `name` of a folder; None where no such list lies there.

    Raises ValueError, with the names there are, for a folder of which it does not say which entry is meant.
    """
    folder = path if path.is_dir() else path.parent
    entries = _entries(folder / FILE)
    if path.is_file():
        wanted = {key: entry for key, entry in entries.items() if entry["file_name"] == path.name}
    elif name is not None:
        wanted = {key: entry for key, entry in entries.items() if key == name}
        if entries and not wanted and not (path / name).is_dir():
            raise ValueError(f"{folder / FILE} has no set {name!r} (data.subset); it has {', '.join(entries)}")
    else:
        wanted = {key: entry for key, entry in entries.items() if _is_ranking(entry)}
        if len(wanted) > 1:
            raise ValueError(f"{folder / FILE} has the sets {', '.join(wanted)}; name one of them with data.subset")
    return _declared(folder, next(iter(wanted.values()))) if wanted else None


def _is_ranking(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get("ranking") or (entry.get("columns") or {}).get("chosen"))


def _entries(file: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    entries = content.items() if isinstance(content, dict) else ()
    return {key: entry for key, entry in entries if isinstance(entry, dict) and isinstance(entry.get("file_name"), str)}


def _declared(folder: Path, entry: Mapping[str, Any]) -> Declared:
    is_sharegpt = entry.get("formatting") == "sharegpt"
    names = SHAREGPT if is_sharegpt else ALPACA
    given: Mapping[str, str] = entry.get("columns") or {}
    columns = {column: names[role] for role, column in given.items() if role in names and column}
    tags: Mapping[str, str] = entry.get("tags") or {}
    if not is_sharegpt:
        return Declared(folder / entry["file_name"], columns)
    return Declared(
        folder / entry["file_name"], columns, tags.get("role_tag", "from"), tags.get("content_tag", "value"),
        {tags.get(tag, word): word for tag, word in SPEAKERS.items()},
    )  # fmt: skip
