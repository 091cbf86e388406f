"""Completions with scores, of which pairs are made.

- `vlfeedback` (MMInstruction/VLFeedback): `prompt`, `img_path` or `image`, and `completions` of {`response`, `annotations`:
  aspect → {`Rating`}}; a score is the mean of the ratings (Silkie, arXiv 2312.10665)
- `bpo`: `prompt`, `image` and `completions` of {`response`, `score`}
- `symmpo`: two images with a question and two answers each

Lists of texts (`completions` or `responses`) with a list of `scores` are read as `bpo`. Through `datasets` a list of completions
comes as a mapping of lists; both are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from math import comb
from typing import Any

from datamodules.formats.listed import Unusable
from datamodules.formats.preference.base import (
    Choices,
    Format,
    RawPair,
    Row,
    Said,
    check_number,
    images_in,
    make_pair,
    named,
    parts_of,
    text_in,
)

COMPLETIONS = ("completions", "responses")


def read_completions(row: Row, choices: Choices) -> list[RawPair]:
    asked = [Said("user", parts_of(text_in(row, "question" if "question" in row else "prompt")))]
    answers = _listed(next((row[key] for key in COMPLETIONS if key in row), None), row.get("scores"))
    scored = [(text_in(one, "response"), _score(one, choices)) for one in answers]
    known = [(text, score) for text, score in scored if score is not None]
    ranked = sorted(known, key=lambda item: -item[1])
    one = choices.pairing == "best_worst" and len(ranked) > 1
    if not one:
        check_number(comb(len(ranked), 2), f"every two of its {len(ranked):,} completions")
    two = [(ranked[0], ranked[-1])] if one else combinations(ranked, 2)
    pairs = [
        make_pair(asked, images_in(row), better, [worse], row=row)
        for (better, high), (worse, low) in two
        if high - low > 0 and high - low >= choices.min_margin
    ]
    if not pairs:
        raise Unusable("no_better_completion", "no two of its completions have scores that are far enough apart")
    return [named(pair, str(number)) for number, pair in enumerate(pairs, start=1)]


def _listed(value: object, scores: object) -> list[Mapping[str, Any]]:
    texts = value if isinstance(value, list) and all(isinstance(one, str) for one in value) else None
    if texts is not None and isinstance(scores, list) and len(scores) == len(texts):
        return [{"response": text, "score": score} for text, score in zip(texts, scores, strict=True)]
    if isinstance(value, Mapping):
        lists = {key: items for key, items in value.items() if isinstance(items, list)}
        count = max(map(len, lists.values()), default=0)
        value = [{key: items[place] for key, items in lists.items() if place < len(items)} for place in range(count)]
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise Unusable("bad_row", "its completions are no list of {response, …}")
    return value


def _score(completion: Mapping[str, Any], choices: Choices) -> float | None:
    """A completion's score, or None where it has none that is a number."""
    if completion.get("score") is not None:
        return _number(completion["score"])
    ratings = completion.get("annotations")
    if not isinstance(ratings, Mapping):
        return None
    names = choices.aspects or tuple(ratings)
    numbers = [
        _number(ratings[name].get("Rating")) if isinstance(ratings.get(name), Mapping) else None for name in names
    ]
    kept = [number for number in numbers if number is not None]
    return sum(kept) / len(kept) if kept and len(kept) == len(numbers) else None


def _number(value: str | float) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if number == number and abs(number) != float("inf") else None


def read_symmpo(row: Row, _: Choices) -> list[RawPair]:
    asked = [Said("user", parts_of(text_in(row, "question")))]
    pairs = []
    for side in ("1", "2"):
        images = images_in(row, f"image_{side}", f"image_path_{side}")
        better, worse = text_in(row, f"resp_{side}_w"), text_in(row, f"resp_{side}_l")
        pairs.append(named(make_pair(asked, images, better, [worse], row={"id": row.get("idx"), **row}), side))
    return pairs


FORMATS = (
    Format(
        ("vlfeedback", "bpo", "completions"),
        lambda row: "completions" in row or {"responses", "scores"} <= row.keys(),
        read_completions,
        weight=4,
    ),
    Format(
        ("symmpo",), lambda row: {"question", "resp_1_w", "resp_1_l", "resp_2_w"} <= row.keys(), read_symmpo, weight=4
    ),
)
