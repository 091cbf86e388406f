"""`task=gallery`: a page to browse a run's pairs and answers, quick with many thousands, from a file and without a server.

    gallery.html          the page: filters, the list, and one item in full
    gallery_files/        beside it, and all that it reads
        index.js          what filters and sorting need, a few bytes per item
        pairs-0000.js …   CHUNK items each, read when they come into view
        images/…          small copies, each picture once

A page opened from a file may not read JSON files, but it may run scripts beside it: the files above are JavaScript whose only
statement hands plain data to the page. Everything is written item by item, so memory does not grow with the number.
"""

from __future__ import annotations

import logging
import os
import shutil
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parallax.records import BadImage, ImageRef, ViewSpec, fingerprint
from parallax.records.atomic import TEMPORARY, atomic_write_text
from parallax.reports.corrupted import looked_at, small_bytes
from parallax.reports.gallery_items import Item, answer_items, pair_items, pair_sets
from parallax.reports.model_eye import ModelEye
from parallax.reports.pages import json_text, page
from parallax.reports.run_folder import RunFolder, read_run

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

CHUNK = 200  # items in one file
FILES = "gallery_files"
SETS = (  # name, what it is called, what one of it is called
    ("pairs", "Pairs", pair_items),
    ("answers", "Answers before and after", answer_items),
)
FACTS = {  # what facts are called; numbers get a range and a way to sort
    "outcome": "outcome", "source": "source", "stage": "stage", "kind": "kind", "change": "change", "suite": "suite",
    "words": "words in the answer", "shared": "shared with rejected, %", "margin": "margin of scores",
}  # fmt: skip


def write_gallery(
    run_folder: Path | str,
    out: Path | str,
    *,
    thumbnail: int = 160,
    limit: int | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Path:
    """Write the gallery of a run into the folder `out` and return the path of its page. One that is there is replaced.

    Args:
        run_folder: of a run that built pairs or evaluated.
        thumbnail: pixels of the longest side of the pictures; 0 makes none.
        limit: show only the first so many pairs, and so many answers.
        progress: called with the number of items just written.

    Raises:
        FileNotFoundError: the run left neither pairs nor answers.
    """
    run = read_run(run_folder)
    target = Path(out)
    target.mkdir(parents=True, exist_ok=True)
    fresh = target / f"{TEMPORARY}{FILES}"
    shutil.rmtree(fresh, ignore_errors=True)
    pictures = Pictures(
        fresh / "images", thumbnail, ModelEye.of(str((run.config.get("model") or {}).get("path") or ""))
    )
    try:
        written = {name: _write_set(name, made(run), fresh, pictures, limit, progress) for name, _, made in SETS}
        written = {name: facts for name, facts in written.items() if facts.count}
        if not written:
            raise FileNotFoundError(
                f"{run.folder} has neither pairs nor answers to show; it is no run that built or measured any"
            )
        index = {
            "chunk": CHUNK,
            "sets": [_set(name, title, written[name]) for name, title, _ in SETS if name in written],
        }
        atomic_write_text(fresh / "index.js", f"parallaxIndex({json_text(index)});\n")
        shutil.rmtree(target / FILES, ignore_errors=True)
        os.replace(fresh, target / FILES)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    if pictures.missing:
        log.warning("%d pictures are missing from the gallery; the first: %s", pictures.missing, pictures.first_fault)
    text = page(
        "gallery.html.j2",
        scripts=("dom.js", "gallery.js"),
        files="'self' file:",
        data={"files": FILES},
        title=_title(run),
        folder=str(run.folder),
        made=datetime.now().strftime("%Y-%m-%d %H:%M"),
        files_folder=FILES,
    )
    atomic_write_text(target / "gallery.html", text)
    return target / "gallery.html"


def count_items(run_folder: Path | str) -> int:
    """About how many items the gallery of a run will have, without making any."""
    run = read_run(run_folder)
    sizes = [(pairs.manifest()["pairs"], pairs.manifest()["dropped"]) for _, pairs in pair_sets(run)]
    answers = max((len(e.items) for when in ("before", "after") if (e := run.evaluation(when))), default=0)
    return sum(kept + sum(dropped.values()) for kept, dropped in sizes) + answers


@dataclass
class Facts:
    """The columns of one set: for words their numbers in `words`, for numbers the values themselves (nan for none)."""

    count: int = 0
    words: dict[str, dict[str, int]] = field(default_factory=dict)
    columns: dict[str, array[Any]] = field(default_factory=dict)

    def add(self, facts: dict[str, str | float | None]) -> None:
        for name, value in facts.items():
            if isinstance(value, str):
                known = self.words.setdefault(name, {})
                self.columns.setdefault(name, array("H")).append(known.setdefault(value, len(known)))
            else:
                self.columns.setdefault(name, array("f")).append(float("nan") if value is None else value)
        self.count += 1


class Pictures:
    """Small copies of images, clean and as a view shows them, each written once under a name made of what it shows."""

    def __init__(self, folder: Path, side: int, eye: ModelEye) -> None:
        self.folder, self.side, self.eye = folder, side, eye
        self.names: dict[str, str] = {}
        self.missing, self.first_fault = 0, ""

    def of(self, image: ImageRef | None, views: list[ViewSpec]) -> tuple[str, list[str]]:
        """File names, relative to the folder, of the image and of each view of it; "" for what cannot be had."""
        if image is None or not self.side:
            return "", ["" for _ in views]
        try:
            digest = image.digest()
            keys = [digest, *(fingerprint([digest, view.name, dict(view.params), view.seed]) for view in views)]
            if any(key not in self.names for key in keys):
                for key, view in zip(keys, [None, *views], strict=True):
                    if key not in self.names:
                        self.names[key] = self._write(key, looked_at(image, view, self.eye))
            return self.names[keys[0]], [self.names[key] for key in keys[1:]]
        except (BadImage, ValueError, OSError) as error:
            self.missing += 1
            self.first_fault = self.first_fault or str(error)
            return "", ["" for _ in views]

    def _write(self, key: str, image: Image.Image) -> str:
        data, kind = small_bytes(image, self.side)
        name = f"{key[:2]}/{key[2:18]}.{kind}"
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return name


def _write_set(
    name: str,
    items: Iterable[Item],
    folder: Path,
    pictures: Pictures,
    limit: int | None,
    progress: Callable[[int], None],
) -> Facts:
    """Write the chunks of one set; what filters need comes back."""
    facts, chunk = Facts(), []
    folder.mkdir(parents=True, exist_ok=True)
    for item in items:
        if limit is not None and facts.count >= limit:
            break
        facts.add(item.facts)
        clean, corrupted = pictures.of(item.image, item.views)
        others = [pictures.of(item.others, [])[0]] if item.others is not None else []
        chunk.append({**item.data, "image": clean, "corrupted": [*others, *corrupted]})
        if len(chunk) == CHUNK:
            _write_chunk(folder, name, facts.count // CHUNK - 1, chunk)
            progress(len(chunk))
            chunk = []
    if chunk:
        _write_chunk(folder, name, facts.count // CHUNK, chunk)
        progress(len(chunk))
    return facts


def _write_chunk(folder: Path, name: str, number: int, items: list[dict[str, Any]]) -> None:
    (folder / f"{name}-{number:04d}.js").write_text(f'parallaxChunk("{name}",{number},{json_text(items)});\n', "utf-8")


def _set(name: str, title: str, facts: Facts) -> dict[str, Any]:
    columns: list[dict[str, Any]] = []
    for fact, values in facts.columns.items():
        if fact in facts.words:
            if len(facts.words[fact]) > 1 or fact == "outcome":
                columns.append(
                    {"name": fact, "title": FACTS[fact], "words": list(facts.words[fact]), "values": values.tolist()}
                )
        elif any(value == value for value in values):
            columns.append(
                {
                    "name": fact,
                    "title": FACTS[fact],
                    "words": None,
                    "values": [float(f"{v:.4g}") if v == v else None for v in values],
                }
            )
    return {"name": name, "title": title, "count": facts.count, "columns": columns}


def _title(run: RunFolder) -> str:
    method, model = ((run.config.get(group) or {}).get("name") or "" for group in ("method", "model"))
    return " · ".join(part for part in (str(method), str(model)) if part) or run.folder.name
