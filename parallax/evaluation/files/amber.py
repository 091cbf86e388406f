"""AMBER's files: `data/query/query_all.json`, `data/annotations.json`, `data/relation.json`, `data/safe_words.txt`, images.

query:       [{"id": 1, "image": "AMBER_1.jpg", "query": "Describe this image."}, …]
annotations: [{"id": 1, "type": "generative", "truth": ["beach", …], "hallu": ["boat", …]},
              {"id": 1005, "type": "discriminative-attribute-state", "truth": "yes"}, …]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from parallax.evaluation.amber import AmberScorer, AmberWords
from parallax.evaluation.files.reading import WrongFile, existing, field, first, read_json, rows_of
from parallax.evaluation.suites import ScoredSuite
from parallax.records import Sample, Turn
from parallax.records.images import FileImage
from parallax.settings.ranges import AnyText, Count, ExistingFile, OneOf

DIMENSIONS = ("existence", "attribute", "relation")
Part = Annotated[str, OneOf("generative", *DIMENSIONS)]
QUERIES = "AMBER's queries, a list of {id, image, query}"
ANNOTATIONS = "AMBER's annotations, a list of {id, type, truth, hallu}"
RELATIONS = "AMBER's word associations, a mapping from an object to a list of words"


def amber_questions(
    path: ExistingFile,
    images: ExistingFile,
    parts: Sequence[Part] = ("generative", *DIMENSIONS),
    limit: Count | None = None,
) -> list[Sample]:
    """AMBER's descriptions and yes/no questions.

    Args:
        path: the folder with `query/query_all.json` and `annotations.json` (the release's `data`).
        images: the folder of its images.
        parts: any of generative, existence, attribute, relation.
        limit: at most so many questions of each part.
    """
    folder = Path(path)
    file = folder / "query" / "query_all.json"
    annotations = {
        field(row, "id", int, f"{folder / 'annotations.json'}, entry {place}"): row
        for place, row in enumerate(_annotations(folder), start=1)
    }
    samples: list[Sample] = []
    for part in parts:
        samples += first(_of_part(file, annotations, images, part), limit, f"{file} (part {part})")
    return samples


def amber_suite(
    path: ExistingFile,
    images: ExistingFile,
    name: str = "amber",
    parts: Sequence[Part] = ("generative", *DIMENSIONS),
    limit: Count | None = None,
    max_new_tokens: Count = 512,
    prefix: AnyText = "",
) -> ScoredSuite:
    """The suite over these questions, with AMBER's vocabulary from the same folder."""
    folder = Path(path)
    relations = read_json(folder / "relation.json", RELATIONS)
    if not isinstance(relations, dict) or not all(isinstance(words, list) for words in relations.values()):
        raise WrongFile(f"{folder / 'relation.json'}: expected {RELATIONS}")
    safe = existing(folder / "safe_words.txt", "AMBER's safe words, one per line").read_text("utf-8").split("\n")
    scorer = AmberScorer(AmberWords(relations, frozenset(word.strip() for word in safe if word.strip())))
    return ScoredSuite(amber_questions(path, images, parts, limit), scorer, name, max_new_tokens, prefix)


def _annotations(folder: Path) -> list[dict[str, Any]]:
    path = folder / "annotations.json"
    return rows_of(read_json(path, ANNOTATIONS), path, ANNOTATIONS)


def _of_part(file: Path, annotations: dict[int, dict[str, Any]], images: str, part: str) -> Iterator[Sample]:
    for place, row in enumerate(rows_of(read_json(file, QUERIES), file, QUERIES), start=1):
        where = f"{file}, entry {place}"
        number = field(row, "id", int, where)
        if number not in annotations:
            raise WrongFile(
                f"{where}: id {number} has no entry in annotations.json; the two files must be of one release"
            )
        about = annotations[number]
        kind = _dimension(field(about, "type", str, f"annotations.json, id {number}"))
        if kind != part:
            continue
        turn, extra = Turn(field(row, "query", str, where)), {}
        if kind == "generative":
            extra = {"present": field(about, "truth", list, where), "likely": field(about, "hallu", list, where)}
        else:
            turn = Turn(turn.question, field(about, "truth", str, where).lower())
        image = FileImage(images, field(row, "image", str, where))
        yield Sample(f"amber:{number}", "amber", image, (turn,), kind, None, {**extra, "category": kind})


def _dimension(kind: str) -> str:
    """`discriminative-attribute-state` is an attribute question, `discriminative-hallucination` one about existence."""
    if kind == "generative":
        return kind
    words = kind.split("-")
    return "attribute" if "attribute" in words else "existence" if "hallucination" in words else "relation"
