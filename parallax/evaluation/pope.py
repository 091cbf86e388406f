"""POPE: yes/no questions about objects (Li et al., 2023). The reading rules and the scores, as pure functions.

The published reader keeps the text before the first full stop, removes commas, splits at single spaces, and says "no"
if a word is exactly `No`, `no` or `not`; everything else is "yes". So do we, with two repairs: special tokens are
removed first (`No</s>` is a no), and an answer that holds neither a no nor a yes is still taken as "yes", as
published, but counted as a parse failure and reported, because a model that answers nothing should not look like one
that says yes. The strict rule is for those who do not want to guess: the answer must say yes or no and not both, in any
spelling, and one that does not is a wrong answer, neither a yes nor a no.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from parallax.evaluation.special_tokens import plain_text
from parallax.preference.verdict import read_yes_no

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
