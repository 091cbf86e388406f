"""COCO's images and annotations for CHAIR: `instances_val2014.json`, `captions_val2014.json` and the folder of images."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from parallax.evaluation.coco_words import CocoWords
from parallax.evaluation.files.reading import WrongFile, drawn, existing, field, first, read_json, rows_of
from parallax.records import Sample, Turn
from parallax.records.images import FileImage
from parallax.settings.ranges import Count, ExistingFile, Natural

INSTANCES = "COCO's instances: an object with images, annotations and categories"
CAPTIONS = "COCO's captions: an object with images and annotations"


def coco_descriptions(
    annotations: ExistingFile,
    images: ExistingFile,
    words: CocoWords,
    prompt: str,
    count: Count | None,
    seed: Natural = 0,
    image_list: ExistingFile | None = None,
    *,
    split: str,
    captions: bool,
    limit: Count | None = None,
) -> list[Sample]:
    """COCO images to be described, with every object that is known to be in them.

    Args:
        annotations: the folder with `instances_<split>.json` and `captions_<split>.json`.
        images: the folder of the images.
        words: how words are brought to objects.
        prompt: what is asked.
        count: how many images; they are chosen by a hash of `seed` and file name. None takes all.
        seed: of the choice.
        image_list: a file with one image (file name or number) per line, in place of count and seed.
        split: in the names of the annotation files.
        captions: objects in people's captions count as being there, as CHAIR has it; False takes the instances alone.
        limit: at most so many.
    """
    folder = Path(annotations)
    file = folder / f"instances_{split}.json"
    data = _mapping(file, INSTANCES)
    names = {
        field(r, "id", int, str(file)): field(r, "file_name", str, str(file))
        for r in _rows(data, "images", file, INSTANCES)
    }
    kinds = {
        field(r, "id", int, str(file)): field(r, "name", str, str(file))
        for r in _rows(data, "categories", file, INSTANCES)
    }
    chosen = _chosen(names, count, seed, image_list)
    categories = _by_image(data, file, "category_id", chosen, INSTANCES)
    told: dict[int, list[Any]] = {}
    if captions:
        file = folder / f"captions_{split}.json"
        told = _by_image(_mapping(file, CAPTIONS), file, "caption", chosen, CAPTIONS)
    samples = []
    for number in chosen:
        try:
            objects = words.objects([kinds[kind] for kind in categories.get(number, [])], told.get(number, []))
        except KeyError as error:
            raise WrongFile(
                f"the table of synonyms has no line for the category {error}, which image {names[number]} has"
            ) from None
        samples.append(
            Sample(
                f"chair:{number}",
                f"coco/{split}",
                FileImage(images, names[number]),
                (Turn(prompt),),
                "describe",
                objects,
            )
        )
    return first(samples, limit, folder)


def _chosen(names: dict[int, str], count: int | None, seed: int, image_list: ExistingFile | None) -> list[int]:
    by_name = {name: number for number, name in names.items()}
    if image_list is None:
        return [by_name[name] for name in drawn(sorted(by_name), count, seed)]
    path = existing(Path(image_list), "a list of images, one file name or number per line")
    chosen = []
    for line, text in enumerate(path.read_text("utf-8").splitlines(), start=1):
        word = text.strip()
        if not word:
            continue
        number = by_name.get(word) or (int(word) if word.isdigit() else None)
        if number not in names:
            raise WrongFile(
                f"{path}, line {line}: {word!r} is no image of the annotations; expected a file name or number"
            )
        chosen.append(number)
    return chosen


def _mapping(file: Path, expected: str) -> dict[str, Any]:
    data = read_json(file, expected)
    if not isinstance(data, dict):
        raise WrongFile(f"{file} holds {type(data).__name__}; expected {expected}")
    return data


def _rows(data: dict[str, Any], name: str, file: Path, expected: str) -> list[dict[str, Any]]:
    return rows_of(field(data, name, list, str(file)), f"{file} ({name})", expected)


def _by_image(data: dict[str, Any], file: Path, key: str, chosen: list[int], expected: str) -> dict[int, list[Any]]:
    wanted, found = set(chosen), defaultdict(list)
    for place, row in enumerate(_rows(data, "annotations", file, expected), start=1):
        number = field(row, "image_id", int, f"{file}, annotation {place}")
        if number in wanted:
            found[number].append(field(row, key, (int, str), f"{file}, annotation {place}"))
    return found
