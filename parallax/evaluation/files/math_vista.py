"""MathVista's `testmini.json`: a mapping from a problem's number to its question, image, choices, kind of answer, metadata."""

from __future__ import annotations

from collections.abc import Iterator

from parallax.evaluation.files.reading import field, fill, first, read_json, table_of
from parallax.records import Sample, Turn
from parallax.records.images import FileImage
from parallax.settings.ranges import Count, ExistingFile

EXPECTED = (
    "MathVista's testmini.json: a mapping from an id to {question, image, choices, answer, question_type, answer_type, "
    "precision, metadata}"
)


def math_vista_questions(
    path: ExistingFile, images: ExistingFile, prompt: str = "{question}", limit: Count | None = None
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
