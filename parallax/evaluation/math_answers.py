"""MathVista (Lu et al., 2024): the answer is found in the response, brought into the form of the truth, and compared.

Finding is done here by rules where the published pipeline asks GPT-4: a number, a list or a letter after the last "answer", else
the last one in the text. Bringing into form and comparing are as published: an option is named by its letter, or is the one with
the smallest edit distance; numbers are rounded to the truth's precision; then texts must be equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from parallax.evaluation.accuracy import plain_text
from parallax.evaluation.files.reading import field, fill, first, read_json, table_of
from parallax.records import Sample, Turn
from parallax.records.images import FileImage
from parallax.settings.ranges import Count, ExistingFile

_NUMBER = r"-?\d+(?:,\d{3})*(?:\.\d+)?|-?\.\d+"


def found_answer(response: str, question_type: str, answer_type: str, choices: Sequence[str] = ()) -> str | None:
    """What the response gives as its answer, as text; None when it gives none of the kind asked for."""
    text = plain_text(response)
    tail = re.split(r"(?i)\banswer\b(?:\s+is|\s*:)?", text)[-1].strip().strip("*$ ").rstrip(".")
    if question_type == "multi_choice":
        letter = re.search(r"\(([A-Za-z])\)", tail) or re.match(r"([A-Z])(?:[.):]|$)", tail)
        if letter and ord(letter[1].upper()) - ord("A") < len(choices):
            return letter[1].upper()
        inside = [choice for choice in choices if re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", tail)]
        return max(inside, key=len) if inside else tail or None
    if answer_type == "list":
        lists = re.findall(r"\[[^\[\]]*\]", tail) or re.findall(r"\[[^\[\]]*\]", text)
        return lists[-1] if lists else None
    if answer_type in ("integer", "float"):
        numbers = re.findall(_NUMBER, tail) or re.findall(_NUMBER, text)
        return (numbers[0] if tail != text else numbers[-1]).replace(",", "") if numbers else None
    return tail or None


def in_form(
    found: str | None, question_type: str, answer_type: str, choices: Sequence[str], precision: int
) -> str | None:
    """The found answer in the form the truth has: an option's text, a number of the right precision, a list, a text."""
    if found is None:
        return None
    if question_type == "multi_choice":
        place = ord(found) - ord("A") if len(found) == 1 and found.isalpha() else -1
        if found not in choices and 0 <= place < len(choices):
            return choices[place]
        return min(choices, key=lambda choice: edit_distance(found, choice)) if choices else found
    try:
        if answer_type == "integer":
            return str(int(float(found)))
        if answer_type == "float":
            return str(round(float(found), precision))
    except (ValueError, OverflowError):
        return None
    return found


def math_vista_scores(sample: Sample, answer: str) -> dict[str, tuple[float, float]]:
    """`mathvista_accuracy`, the same by task, and `mathvista_parse_failures`."""
    about = sample.attributes
    choices = [str(choice) for choice in about.get("choices") or ()]
    kinds = str(about["question_type"]), str(about["answer_type"])
    found = found_answer(answer, *kinds, choices)
    said = in_form(found, *kinds, choices, int(about.get("precision") or 0))
    right = (float(said is not None and said == sample.answer), 1.0)
    scores = {"mathvista_accuracy": right, "mathvista_parse_failures": (float(said is None), 1.0)}
    return {**scores, f"mathvista_accuracy:{sample.kind}": right} if sample.kind else scores


def edit_distance(first: str, second: str) -> int:
    """Levenshtein's distance: fewest insertions, deletions and replacements of characters."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        above, row[0] = row[0], i
        for j, b in enumerate(second, start=1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]


EXPECTED = (
    "MathVista's testmini.json: a mapping from an id to {question, image, choices, answer, question_type, answer_type, "
    "precision, metadata}"
)


def math_vista_questions(
    path: ExistingFile, images: ExistingFile, prompt: str, limit: Count | None = None
) -> list[Sample]:
    """MathVista's problems that have an answer.

    Args:
        path: `testmini.json`.
        images: the folder that its image paths (`images/1.jpg`) begin in.
        prompt: with {question}, which is the file's `query` (hint, question and choices) where there is one.
        limit: at most so many.
    """

    def samples() -> Iterator[Sample]:
        for number, row in table_of(read_json(path, EXPECTED), path, EXPECTED).items():
            where = f"{path}, problem {number}"
            question = row.get("query") or _question(row, where)
            about = {
                "question_type": field(row, "question_type", str, where),
                "answer_type": field(row, "answer_type", str, where),
                "choices": row.get("choices") or [],
                "precision": int(float(row.get("precision") or 0)),
            }
            image = FileImage(images, field(row, "image", str, where))
            turn = Turn(fill(prompt, question=question), field(row, "answer", str, where))
            kind = str((row.get("metadata") or {}).get("task", ""))
            yield Sample(f"mathvista:{number}", "math_vista", image, (turn,), kind, None, about)

    return first(samples(), limit, path)


def _question(row: dict[str, object], where: str) -> str:
    question = str(field(row, "question", str, where))
    unit = f" (Unit: {row['unit']})" if row.get("unit") else ""
    choices = row.get("choices")
    listed = [f"({chr(65 + place)}) {text}" for place, text in enumerate(choices)] if isinstance(choices, list) else []
    return "\n".join([f"Question: {question}{unit}", *(["Choices:", *listed] if listed else [])])
