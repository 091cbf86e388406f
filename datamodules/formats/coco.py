"""COCO as it is unpacked: `train2014/`, `val2014/`, `train2017/` … beside `annotations/`, with objects and captions.

<path>/train2014/COCO_train2014_000000000009.jpg      (2014)
<path>/train2017/000000000009.jpg                     (2017)
<path>/annotations/instances_train2014.json           which objects are in an image
<path>/annotations/captions_train2014.json            what five people wrote about it
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from datamodules.formats.json_scan import BrokenFile, sections
from datamodules.formats.listed import Listed
from parallax.preference.prompts import PromptPool
from parallax.records import Sample, Turn, seed_for
from parallax.records.images import EXTENSIONS, FileImage
from parallax.settings.ranges import Count, Folder, Natural, RowsFile

Use = Literal["auto", "always", "never"]


class CocoSource(Listed):
    """One sample per image of a split, in the order of the list of names, or of file names. The file name is the id.

    Args:
        path: the folder that holds the splits and `annotations/`.
        split: name of the folder of images.
        prompts: questions; each image draws its own by seed and file name.
        names: file with the names of the images to take: a JSON list, or one name a line. A name that comes again counts once.
            None takes all images of the split.
        sample: so many of them, drawn by seed and name; None for all.
        objects: read which objects are in each image: always, never, or auto, where the file of instances is there.
        captions: the same of the captions, which become `attributes["captions"]`.
        limit: only the first so many samples.
        seed: of both draws.
        name: how the source is called.
    """

    def __init__(
        self,
        path: Folder,
        split: str,
        prompts: Sequence[str],
        names: RowsFile | None = None,
        sample: Count | None = None,
        objects: Use = "auto",
        captions: Use = "auto",
        limit: Count | None = None,
        seed: Natural = 0,
        name: str = "coco",
    ) -> None:
        super().__init__(path, name, limit)
        self.images = self.path / split
        if not self.images.is_dir():
            there = (
                sorted(folder.name for folder in self.path.iterdir() if folder.is_dir()) if self.path.is_dir() else []
            )
            raise FileNotFoundError(
                f"{self.path} has no folder {split} (data.split); it has {', '.join(there) or 'no folder at all'}. data.path is "
                "the folder that COCO's archives were unpacked into"
            )
        self.split, self.names, self.sample, self.seed = split, names, sample, seed
        self.pool = PromptPool(list(prompts))
        self.objects = self._annotations("instances", "objects", objects)
        self.captions = self._annotations("captions", "captions", captions)

    def _annotations(self, kind: str, key: str, use: str) -> Path | None:
        file = self.path / "annotations" / f"{kind}_{self.split}.json"
        if use == "never" or (use == "auto" and not file.is_file()):
            return None
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} does not exist, and data.{key}=always asks for it; fetch it, or use data.{key}=auto"
            )
        return file

    def _read(self) -> list[Sample]:
        names = self._chosen()
        objects = objects_of(self.objects) if self.objects is not None else None
        captions = captions_of(self.captions) if self.captions is not None else {}
        samples = []
        for name in names:
            found: dict[str, Any] = {"captions": captions[name]} if name in captions else {}
            samples.append(
                Sample(
                    name,
                    self.name,
                    FileImage(str(self.images), name),
                    (Turn(self.pool.draw(self.seed, name)),),
                    objects=objects.get(name) if objects is not None else None,
                    attributes=found,
                )
            )
        return samples

    def _chosen(self) -> list[str]:
        every = read_names(Path(self.names).expanduser()) if self.names is not None else self._listing()
        self.rows = len(every)
        self.counted[Path(self.names or self.images).name] = len(every)
        names = list(dict.fromkeys(every))
        if len(names) < len(every):
            self.left_out["repeated"] = len(every) - len(names)
        if self.names is not None:
            there = set(self._listing())
            self.counted[self.split] = len(there)
            for place, name in enumerate(names, start=1):
                if name not in there:
                    self._set_aside(place, "missing", f"{name!r} is not in {self.images}", Path(self.names))
            names = [name for name in names if name in there]
        if self.sample is not None and self.sample < len(names):
            drawn = sorted(names, key=lambda name: seed_for(self.seed, name, "image"))[: self.sample]
            self.left_out["not_sampled"] = len(names) - self.sample
            kept = set(drawn)
            names = [name for name in names if name in kept]
        if self.limit is not None and self.limit < len(names):
            self.left_out["over_limit"] = len(names) - self.limit
        return names[: self.limit]

    def _listing(self) -> list[str]:
        found = sorted(file.name for file in self.images.iterdir() if file.name.lower().endswith(EXTENSIONS))
        if not found:
            raise ValueError(f"{self.images} holds no image; unpack {self.split}.zip there")
        return found


def read_names(file: Path) -> list[str]:
    """Names of images: a JSON list of texts, or a text file with one a line. Raises `BrokenFile` or FileNotFoundError."""
    if not file.is_file():
        raise FileNotFoundError(
            f"data.names {file} does not exist; give a JSON list of image names, or one name a line"
        )
    text = file.read_text(encoding="utf-8-sig").strip()
    if not text.startswith("["):
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        names = json.loads(text)
    except ValueError as error:
        raise BrokenFile(f"{file} is no JSON list ({error}); a list of image names is expected") from error
    for place, name in enumerate(names, start=1):
        if not isinstance(name, str):
            raise BrokenFile(f"{file}, item {place}, is {name!r}; the name of an image is expected")
    return [Path(name).name for name in names]


def objects_of(file: Path) -> dict[str, tuple[str, ...]]:
    """File name -> names of the categories in the image, sorted; an image without any object has ()."""
    names: dict[int, str] = {}
    files: dict[int, str] = {}
    seen: dict[int, set[int]] = defaultdict(set)
    for key, item in sections(file, {"images", "categories", "annotations"}):
        if key == "images":
            files[_field(file, key, item, "id")] = _field(file, key, item, "file_name")
        elif key == "categories":
            names[_field(file, key, item, "id")] = _field(file, key, item, "name")
        else:
            seen[_field(file, key, item, "image_id")].add(_field(file, key, item, "category_id"))
    if unknown := {kind for kinds in seen.values() for kind in kinds} - names.keys():
        raise BrokenFile(f"{file}: annotations name the category {min(unknown)}, which is not among its categories")
    return {name: tuple(sorted(names[kind] for kind in seen.get(number, ()))) for number, name in files.items()}


def captions_of(file: Path) -> dict[str, list[str]]:
    """File name -> captions, in the file's order."""
    files: dict[int, str] = {}
    texts: dict[int, list[str]] = defaultdict(list)
    for key, item in sections(file, {"images", "annotations"}):
        if key == "images":
            files[_field(file, key, item, "id")] = _field(file, key, item, "file_name")
        else:
            texts[_field(file, key, item, "image_id")].append(str(_field(file, key, item, "caption")).strip())
    return {files[number]: said for number, said in texts.items() if number in files}


def _field(file: Path, section: str, item: object, name: str) -> Any:
    if not isinstance(item, dict) or name not in item:
        kind = f"has the keys {', '.join(item)}" if isinstance(item, dict) else f"is a {type(item).__name__}"
        raise BrokenFile(f"{file}: an item of {section!r} {kind}, and {name!r} is expected")
    return item[name]
