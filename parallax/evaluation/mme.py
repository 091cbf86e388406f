"""MME (Fu et al., 2023, section 2.2): two yes/no questions per image; accuracy, and accuracy+ where both must be right.

A subtask's score is 100 · (accuracy + accuracy+), so 200 at most; perception adds up ten subtasks (2000 points), cognition four
(800). An answer is read as published: yes or no as a whole, or within its first four characters; anything else is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from parallax.evaluation.special_tokens import plain_text
from parallax.records import Sample

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def read_yes_no(text: str) -> str | None:
    """`yes`, `no`, or None for anything else."""
    text = plain_text(text).lower()
    if text in ("yes", "no"):
        return text
    return "yes" if "yes" in text[:4] else "no" if "no" in text[:4] else None


def mme_scores(answered: Sequence[tuple[Sample, str]]) -> list[dict[str, tuple[float, float]]]:
    """`mme_perception_score` and `mme_cognition_score` in points, of the subtasks that are there; per subtask both accuracies.

    The points are written as shares of a sum, so that they resample by image as every metric does.
    """
    said = [read_yes_no(answer) for _, answer in answered]
    both: dict[str, bool] = {}
    questions: Counter[str] = Counter(sample.kind for sample, _ in answered)
    for (sample, _), word in zip(answered, said, strict=True):
        group = str(sample.attributes["group"])
        both[group] = both.get(group, True) and word == sample.answer
    images = Counter(
        {kind: len({str(s.attributes["group"]) for s, _ in answered if s.kind == kind}) for kind in questions}
    )
    totals = {half: sum(questions[kind] for kind in subtasks) for half, subtasks in _HALVES.items()}
    opened: set[str] = set()
    scored = []
    for (sample, _), word in zip(answered, said, strict=True):
        kind, group, right = sample.kind, str(sample.attributes["group"]), float(word == sample.answer)
        scores = {f"mme_accuracy:{kind}": (right, 1.0), "mme_parse_failures": (float(word is None), 1.0)}
        points = 100 * right / questions[kind]
        if group not in opened:
            opened.add(group)
            scores[f"mme_accuracy_plus:{kind}"] = (float(both[group]), 1.0)
            points += 100 * both[group] / images[kind]
        for half, subtasks in _HALVES.items():
            if kind in subtasks:
                scores[f"mme_{half}_score"] = (points, 1 / totals[half])
        scored.append(scores)
    return scored


_HALVES = {"perception": PERCEPTION, "cognition": COGNITION}
