"""POPE: yes/no questions about objects (Li et al., 2023). The reading rules and the scores, as pure functions.

The published reader keeps the text before the first full stop, removes commas, splits at single spaces, and says "no"
if a word is exactly `No`, `no` or `not`; everything else is "yes". So do we, with two repairs: special tokens are
removed first (`No</s>` is a no), and an answer that holds neither a no nor a yes is still taken as "yes", as
published, but counted as a parse failure and reported, because a model that answers nothing should not look like one
that says yes. The strict rule is for those who do not want to guess: the answer must say yes or no and not both, in any
spelling, and one that does not is a wrong answer, neither a yes nor a no.

Reader of POPE's official question files: one JSON object per line with `question_id`, `image`, `text`, `label`.

The release has one file per split, `coco_pope_random.json`, `coco_pope_popular.json` and `coco_pope_adversarial.json`.
LLaVA's single question file carries a `category` with each line and no label; its label files are the official ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from parallax.evaluation.accuracy import plain_text
from parallax.preference.verdict import read_yes_no
from parallax.records import ImageRef, Sample, Turn
from parallax.records.images import FileImage
from parallax.settings.ranges import Count, ExistingPath

NO_WORDS = frozenset({"No", "no", "not"})
YES_WORDS = frozenset({"Yes", "yes"})
Category = Literal["random", "popular", "adversarial"]
CATEGORIES: tuple[Category, ...] = ("random", "popular", "adversarial")
AnswerRule = Literal["published", "strict"]
ANSWER_RULES: tuple[str, ...] = get_args(AnswerRule)


@dataclass(frozen=True, slots=True)
class Reading:
    """What an answer was taken to say, and whether it really said so."""

    yes: bool
    parsed: bool
    counted: bool = True  # False: it is neither a yes nor a no, and wrong whatever the truth is


def read_answer(text: str) -> Reading:
    """Read one answer by the rules above. Blanks around the answer are removed with the special tokens."""
    words = plain_text(text).split(".")[0].replace(",", "").split(" ")
    if NO_WORDS.intersection(words):
        return Reading(yes=False, parsed=True)
    return Reading(yes=True, parsed=bool(YES_WORDS.intersection(words)))


def read_strictly(text: str) -> Reading:
    """Yes or no if the first word says so, or if exactly one of the two is among the words of the first sentence."""
    said = read_yes_no(plain_text(text))
    return Reading(bool(said), parsed=said is not None, counted=said is not None)


def read_label(text: str) -> bool:
    """A ground-truth label: `yes` or `no`, in any case, with or without a full stop. ValueError for anything else."""
    word = text.strip().rstrip(".").lower()
    if word not in ("yes", "no"):
        raise ValueError(f"a POPE label is yes or no, got {text!r}")
    return word == "yes"


def question_scores(
    reading: Reading, truth: bool, category: str = "", weight: float = 1.0
) -> dict[str, tuple[float, float]]:
    """One question as (numerator, denominator) of every POPE metric. Positive means "yes".

    Args:
        reading: the answer as read.
        truth: whether the object is there.
        category: the split; gives `pope_<category>_…` beside the overall metrics. Empty: overall only.
        weight: of this question in the overall metrics (see `category_weights`).
    """
    correct = float(reading.counted and reading.yes == truth)
    positives = float(reading.yes) + float(truth)  # 2 TP + FP + FN, since yes = TP + FP and truth = TP + FN
    true_positive = float(reading.yes and truth)
    names: dict[str, tuple[float, float]] = {
        "accuracy": (correct, 1.0),
        "precision": (true_positive, float(reading.yes)),
        "recall": (true_positive, float(truth)),
        "f1": (2 * true_positive, positives),
        "yes_ratio": (float(reading.yes), 1.0),
        "parse_failures": (float(not reading.parsed), 1.0),
    }
    scores = {f"pope_{name}": (above * weight, below * weight) for name, (above, below) in names.items()}
    if category:
        scores |= {f"pope_{category}_{name}": pair for name, pair in names.items()}
    return scores


def category_weights(counts: Mapping[str, int]) -> dict[str, float]:
    """Weights that give every split the same say, so that overall accuracy is the plain mean of the splits' accuracies.

    That is how SeVa's "All" column is made. With splits of equal size all weights are 1.
    """
    total = sum(counts.values())
    return {category: total / (len(counts) * count) for category, count in counts.items() if count}


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
        splits: Sequence[Category],
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
