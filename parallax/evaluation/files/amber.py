"""AMBER's files: `data/query/query_all.json`, `data/annotations.json`, `data/relation.json`, `data/safe_words.txt`, images.

query:       [{"id": 1, "image": "AMBER_1.jpg", "query": "Describe this image."}, …]
annotations: [{"id": 1, "type": "generative", "truth": ["beach", …], "hallu": ["boat", …]},
              {"id": 1005, "type": "discriminative-attribute-state", "truth": "yes"}, …]

AMBER (Wang et al., 2023, section 4): hallucinations in descriptions, and yes/no questions, without a judge.

A description's nouns are looked up in AMBER's own vocabulary (`relation.json`: object → words that go with it). A word that
belongs to an object of the image is right; one in `safe_words.txt` counts as a mention that is never wrong; any other is a
hallucination. The published script finds nouns with a tagger and also lets word vectors decide whether two words mean the same.
Here a word is taken by its singular form, and only words that AMBER lists together are the same, unless a function says more.

    amber_chair = hallucinated mentions / mentions           amber_cover = objects mentioned / objects to be mentioned
    amber_hal   = descriptions with a hallucination / all    amber_cog   = likely hallucinations mentioned / likely hallucinations

The yes/no questions are scored with "no" as the positive answer, as published.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from parallax.evaluation.accuracy import plain_text
from parallax.evaluation.coco_words import singular, tokens
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
    parts: Sequence[Part],
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
    name: str,
    parts: Sequence[Part],
    limit: Count | None = None,
    *,
    max_new_tokens: Count,
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


Scores = dict[str, tuple[float, float]]
Similar = Callable[[str, str], bool]


@dataclass(frozen=True)
class AmberWords:
    """AMBER's vocabulary.

    Args:
        association: object → words that go with it (`relation.json`).
        safe: words that are never a hallucination (`safe_words.txt`).
        similar: whether two words mean the same, beside what the vocabulary says; None: only what it says.
    """

    association: Mapping[str, Sequence[str]]
    safe: Collection[str] = ()
    similar: Similar | None = None

    def mentions(self, text: str) -> list[str]:
        """Words of the text that the vocabulary knows, in order, repeats kept."""
        words = (word for name, words in self.association.items() for word in (*words, name))
        known = {word.lower(): word for word in words}  # as AMBER writes them: TV, air-conditioning, e-book
        found = ((singular(word), word) for word in tokens(text))
        return [known[one] if one in known else known[word] for one, word in found if one in known or word in known]

    def objects_of(self, mention: str, objects: Sequence[str]) -> str | None:
        """The first of the objects that this word stands for."""
        for name in objects:
            if mention == name or mention in self.association.get(name, ()):
                return name
        if self.similar is not None:
            for name in objects:
                if any(self.similar(mention, word) for word in (*self.association.get(name, ()), name)):
                    return name
        return None


def description_scores(text: str, present: Sequence[str], likely: Sequence[str], words: AmberWords) -> Scores:
    """One description.

    Args:
        text: the description.
        present: objects a good description mentions (`truth`).
        likely: objects that people would expect and that are not there (`hallu`).
        words: the vocabulary.
    """
    mentions, safe = words.mentions(text), {word.lower() for word in words.safe}
    covered: set[str] = set()
    expected: set[str] = set()
    wrong = 0
    for mention in mentions:
        if mention.lower() in safe:
            continue
        there = words.objects_of(mention, present)
        if there is not None:
            covered.add(there)
            continue
        wrong += 1
        not_there = words.objects_of(mention, likely)
        if not_there is not None:
            expected.add(not_there)
    return {
        "amber_chair": (wrong, len(mentions)),
        "amber_cover": (len(covered), len(present)),
        "amber_hal": (float(wrong > 0), 1.0),
        "amber_cog": (len(expected), len(likely)),
    }


def yes_no_scores(answer: str, truth: str, dimension: str) -> Scores:
    """One yes/no question, over all and within its dimension (existence, attribute, relation).

    The answer must begin with yes or no; the published script asks for exactly `Yes` or `No`. Anything else is wrong.
    """
    begin = plain_text(answer).lower().lstrip("\"'(*").split(".")[0].split(",")[0].split()
    said = begin[0] if begin and begin[0] in ("yes", "no") else None
    no, truly_no = float(said == "no"), float(truth == "no")
    both = float(said == "no" and truth == "no")
    pairs = {
        "accuracy": (float(said == truth), 1.0),
        "precision": (both, no),
        "recall": (both, truly_no),
        "f1": (2 * both, no + truly_no),
    }
    scores = {f"amber_{name}": pair for name, pair in pairs.items()}
    scores |= {f"amber_{name}:{dimension}": pair for name, pair in pairs.items()}
    scores["amber_parse_failures"] = (float(said is None), 1.0)
    return scores


@dataclass(frozen=True)
class AmberScorer:
    """Scores either kind of AMBER sample; `kind` is `generative`, or the dimension of a yes/no question."""

    words: AmberWords

    def __call__(self, sample: Sample, answer: str) -> Scores:
        if sample.kind == "generative":
            about = sample.attributes
            return description_scores(answer, about["present"], about["likely"], self.words)
        return yes_no_scores(answer, str(sample.answer), sample.kind)
