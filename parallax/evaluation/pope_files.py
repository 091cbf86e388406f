"""Reader of POPE's official question files: one JSON object per line with `question_id`, `image`, `text`, `label`.

The release has one file per split, `coco_pope_random.json`, `coco_pope_popular.json` and `coco_pope_adversarial.json`.
LLaVA's single question file carries a `category` with each line and no label; its label files are the official ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from parallax.evaluation.pope import CATEGORIES, Category, read_label
from parallax.records import ImageRef, Sample, Turn
from parallax.records.images import FileImage
from parallax.settings.ranges import Count, ExistingPath

_FIELDS = {"question_id": (int, str), "image": (str,), "text": (str,), "label": (str,)}


class PopeFiles(Sequence[Sample]):
    """The questions of POPE's official files as samples for `PopeSuite`.

    Args:
        files: split name → file, or a folder that holds `*_<split>.json` (or `.jsonl`) for each split.
        images: the folder of the images (`COCO_val2014_000000310196.jpg`), or a function from such a name to the image.
        splits: which splits to read.
        limit: at most this many questions of each split (None: all).

    Raises:
        FileNotFoundError: a split's file is not there.
        ValueError: a line is not what it should be; names the file, the line and what was expected.
    """

    def __init__(
        self,
        files: ExistingPath | Mapping[str, ExistingPath],
        images: ExistingPath | Callable[[str], ImageRef],
        splits: Sequence[Category] = CATEGORIES,
        limit: Count | None = None,
    ) -> None:
        paths = {split: Path(path) for split, path in files.items()} if isinstance(files, Mapping) else {}
        open_image = images if callable(images) else partial(FileImage, str(images))
        self._samples: list[Sample] = []
        for split in splits:
            path = paths[split] if split in paths else _find(files, split)
            self._samples += list(_read(path, split, open_image, limit))

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, position: int) -> Sample:  # type: ignore[override]  # nobody asks for slices
        return self._samples[position]


def _find(files: str | Path | Mapping[str, str | Path], split: str) -> Path:
    if isinstance(files, Mapping):
        raise FileNotFoundError(
            f"no POPE file is given for the split {split!r}; given are {', '.join(files) or 'none'}"
        )
    found = sorted(path for path in Path(files).glob(f"*{split}.json*") if path.suffix in (".json", ".jsonl"))
    if len(found) != 1:
        raise FileNotFoundError(
            f"{files} needs exactly one file for POPE's split {split!r}, such as coco_pope_{split}.json, and has "
            f"{len(found) or 'none'}; name the files one by one with files={{{split}: …}}"
        )
    return found[0]


def _read(path: Path, split: str, images: Callable[[str], ImageRef], limit: int | None) -> Iterator[Sample]:
    count = 0
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            if limit is not None and count >= limit:
                return
            count += 1
            row = _row(path, number, line)
            yield Sample(
                id=f"pope:{split}:{row['question_id']}",
                source=f"pope/{split}",
                image=images(row["image"]),
                turns=(Turn(row["text"], "yes" if read_label(row["label"]) else "no"),),
                kind="pope",
                attributes={"category": split},
            )
    if not count:
        raise ValueError(f"{path} holds no questions; expected one JSON object per line with {', '.join(_FIELDS)}")


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: not JSON ({error}); expected one object per line") from None
    if not isinstance(row, dict):
        raise ValueError(
            f"{path}, line {number}: expected an object with {', '.join(_FIELDS)}, got {type(row).__name__}"
        )
    for name, kinds in _FIELDS.items():
        if not isinstance(row.get(name), kinds):
            raise ValueError(
                f"{path}, line {number}: {name!r} is missing or not {' or '.join(k.__name__ for k in kinds)}"
            )
    try:
        read_label(row["label"])
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: {error}") from None
    return row
