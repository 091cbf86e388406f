"""Short free answers: the soft accuracy of VQA, TextVQA and VizWiz, GQA's exact match, ChartQA's relaxed accuracy.

Soft accuracy (Antol et al., 2015): an answer is as right as people agree with it, `min(1, agreeing / 3)`, averaged over all ways
to leave one person out. Both sides are normalised before they are compared as the evaluation server does it: small letters, no
commas inside numbers, no articles, number words as digits, apostrophes put back, punctuation dropped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from parallax.evaluation.accuracy import plain_text
from parallax.records import Sample

Scores = dict[str, tuple[float, float]]

NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
ARTICLES = frozenset({"a", "an", "the"})
PUNCTUATION = r""";/[]"{}()=+\_-><@`,?!"""
_WITH_APOSTROPHE = (
    "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's "
    "isn't it'd it'll ma'am might've mightn't must've mustn't needn't not've o'clock oughtn't shan't she'd "
    "should've shouldn't somebody's someone's that's someone'd something'd somebody'll "
    "someone'll something'll there'd there're there's they'd they'll they're "
    "they've 'twas wasn't we'd we've weren't what'll what're what's what've when's where'd where's where've who'd who'll "
    "who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've couldn't've hadn't've he'd've "
    "it'd've mightn't've she'd've shouldn't've someone'd've something'd've there'd've they'd've we'd've wouldn't've "
    "you'd've y'all'd've who'd've y'all'll somebody'd've"
)
CONTRACTIONS = {  # as written without the apostrophe, or without one of two
    missing: word
    for word in _WITH_APOSTROPHE.split()
    for place in range(len(word))
    if word[place] == "'" and (missing := word[:place] + word[place + 1 :])
}
for _word in ("hell", "shed", "shell", "wed", "well", "were"):
    CONTRACTIONS.pop(_word, None)  # words of their own without the apostrophe


def normalised(text: str) -> str:
    """An answer as the evaluation server compares it."""
    text = plain_text(text).lower().replace("\n", " ").replace("\t", " ").strip()
    text = text.replace(",", "").replace("?", "").replace("'s", " 's").strip()
    before = text
    for mark in PUNCTUATION:  # nothing where it stands beside a blank, a blank where it joins two words
        text = text.replace(mark, "" if f"{mark} " in before or f" {mark}" in before else " ")
    text = re.sub(r"\.(?!\d)", "", text)
    words = [NUMBERS.get(word, word) for word in text.split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def soft_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Agreement of a prediction with people's answers, 0 to 1. With a single answer it is equality.

    Args:
        prediction, answers: as they come; both are normalised here.
    """
    said, given = normalised(prediction), [normalised(answer) for answer in answers]
    if len(given) == 1:
        return float(said == given[0])
    matches = given.count(said)
    agreeing = matches * min(1.0, (matches - 1) / 3)  # someone who said so is left out
    agreeing += (len(given) - matches) * min(1.0, matches / 3)  # someone else is left out
    return agreeing / len(given)


def text_vqa_scores(sample: Sample, answer: str) -> Scores:
    """`textvqa_accuracy`: soft accuracy against the ten answers of the sample."""
    return {"textvqa_accuracy": (soft_accuracy(answer, sample.attributes["answers"]), 1.0)}


def vizwiz_scores(sample: Sample, answer: str) -> Scores:
    """`vizwiz_accuracy`: the same for VizWiz, where `unanswerable` is an answer like others; by answer type too."""
    pair = (soft_accuracy(answer, sample.attributes["answers"]), 1.0)
    return {"vizwiz_accuracy": pair, **({f"vizwiz_accuracy:{sample.kind}": pair} if sample.kind else {})}


def gqa_scores(sample: Sample, answer: str) -> Scores:
    """`gqa_accuracy`: equal to the one true answer but for case and a closing full stop; open and binary questions apart."""
    said = plain_text(answer).rstrip(".").strip().lower()
    pair = (float(said == (sample.answer or "").strip().lower()), 1.0)
    return {"gqa_accuracy": pair, **({f"gqa_accuracy:{sample.kind}": pair} if sample.kind else {})}


def relaxed_equal(prediction: str, truth: str, tolerance: float = 0.05) -> bool:
    """ChartQA's relaxed correctness (Masry et al., 2022): numbers within `tolerance` of the truth, other answers equal.

    `12%` is the number 0.12 on either side. A truth of 0 must be met as text.
    """
    prediction = plain_text(prediction)
    said, true = _number(prediction), _number(truth)
    if said is not None and true:
        return abs(said - true) / abs(true) <= tolerance
    return prediction.lower() == truth.strip().lower()


def chart_qa_scores(sample: Sample, answer: str) -> Scores:
    """`chartqa_accuracy`, relaxed, and the same for the questions people wrote and those made by a program.

    Each half has the same weight in the overall metric, as in the paper; the reader gives it in `attributes["weight"]`.
    """
    right, weight = float(relaxed_equal(answer, sample.answer or "")), float(sample.attributes.get("weight", 1.0))
    scores = {"chartqa_accuracy": (right * weight, weight)}
    return {**scores, f"chartqa_accuracy:{sample.kind}": (right, 1.0)} if sample.kind else scores


def _number(text: str) -> float | None:
    text = text.strip()
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
