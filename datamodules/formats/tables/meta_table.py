"""MMPR's `meta.json`: a name for each set, with its file of rows, the folder of its images and how much of it is used."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from datamodules.formats.json_rows import json_rows
from datamodules.formats.listed import kind_of
from datamodules.formats.tables.table import RowByRow, columns_of
from parallax.records.fingerprint import seed_for

LARGEST = 16 << 20  # bytes of such a file


def is_meta(file: Path) -> bool:
    """Whether a JSON file is such a list of sets."""
    if file.stat().st_size > LARGEST:
        return False
    try:
        content = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(entry, dict) and isinstance(entry.get("annotation"), str) for entry in content.values())
    )


class MetaTable(RowByRow):
    """The rows of all sets, or of those whose names match `subset` (as `*_prefix_pair_*`), one set after the other.

    Paths that lie elsewhere on the authors' machine are looked for below the folder of the meta file: `annotation` by its last
    part, also in `annotations/`; `root` by as much of its end as is there. `repeat_time` below 1 takes that share of the rows,
    drawn by their numbers; more than 1 counts as 1.
    """

    def __init__(self, file: Path, subset: str | None = None) -> None:
        self.file = file
        self.sets = [
            (
                name,
                _annotation(file.parent, entry["annotation"]),
                _root(file.parent, str(entry.get("root") or "")),
                _share(entry),
            )
            for name, entry in json.loads(file.read_text("utf-8")).items()
            if subset is None or fnmatch(name, subset)
        ]
        if not self.sets:
            raise ValueError(f"{file} has no set whose name matches {subset!r} (data.subset)")
        self._places: list[str] = []
        self.columns = columns_of(self)

    def __len__(self) -> int:
        return sum(1 for _ in self.rows())

    def row(self, place: int) -> dict[str, Any]:
        for number, row in enumerate(self.rows()):
            if number == place:
                if isinstance(row, ValueError):
                    raise row
                return row
        raise IndexError(place)

    def rows(self) -> Iterator[dict[str, Any] | ValueError]:
        self._places = []
        for name, file, root, share in self.sets:
            for row in json_rows(file):
                if share < 1 and seed_for(0, f"{name}#{row.number}", "repeat_time") / 2**63 >= share:
                    continue
                self._places.append(f"{file.name}, row {row.number}")
                if not isinstance(row.value, Mapping):
                    yield ValueError(row.error or f"it is {kind_of(row.value)}; an object is needed")
                else:
                    yield {"data_source": name, **row.value, "image": _below(root, row.value.get("image"))}

    def where(self, place: int) -> str:
        return self._places[place]


def _annotation(folder: Path, given: str) -> Path:
    places = [folder / given, folder / Path(given).name, folder / "annotations" / Path(given).name]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f"{given} is neither below {folder} nor in its folder annotations; unpack the annotations there"
        )
    return found


def _root(folder: Path, given: str) -> str:
    """The longest end of `given` that is a folder below the meta file's, relative to that."""
    parts = [part for part in Path(given).parts if part not in ("/", ".")]
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if (folder / end).is_dir()), "")


def _below(root: str, image: object) -> Any:
    if isinstance(image, list):
        return [_below(root, one) for one in image]
    return f"{root}/{image}" if root and isinstance(image, str) and image else image


def _share(entry: Mapping[str, Any]) -> float:
    value = entry.get("repeat_time", 1)
    return float(value) if isinstance(value, int | float) else 1.0
