"""Multiple-choice benchmarks' files: SEED-Bench's image part and ScienceQA's questions with an image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from parallax.evaluation.choices import LETTERS, option_lines
from parallax.evaluation.files.reading import WrongFile, field, fill, first, read_json, rows_of, table_of
from parallax.records import Sample, Turn
from parallax.records.images import FileImage
from parallax.settings.ranges import Count, ExistingFile

SEED = "SEED-Bench.json: an object with questions and question_type"
PROBLEMS = "ScienceQA's problems.json: a mapping from an id to {question, choices, answer, hint, image, split, …}"


def seed_bench_questions(
    path: ExistingFile, images: ExistingFile, prompt: str, limit: Count | None = None
) -> list[Sample]:
    """SEED-Bench's questions about images (types 1 to 9; those about videos are left out).

    Args:
        path: `SEED-Bench.json`.
        images: the folder of `SEED-Bench-image`.
        prompt: with {question} and {options}.
        limit: at most so many.
    """
    data = read_json(path, SEED)
    if not isinstance(data, dict):
        raise WrongFile(f"{path} holds {type(data).__name__}; expected {SEED}")
    types = {number: name for name, number in field(data, "question_type", dict, path).items()}

    def samples() -> Iterator[Sample]:
        for place, row in enumerate(rows_of(field(data, "questions", list, path), path, SEED), start=1):
            where = f"{path}, question {place}"
            if row.get("data_type") != "image":
                continue
            options = {
                letter: str(field(row, f"choice_{letter.lower()}", (str, int, float), where)) for letter in "ABCD"
            }
            answer = field(row, "answer", str, where)
            if answer not in options:
                raise WrongFile(f"{where}: the answer {answer!r} is none of A, B, C, D")
            question = fill(prompt, hint="", question=field(row, "question", str, where), options=option_lines(options))
            kind = str(types.get(row.get("question_type_id"), row.get("question_type_id")))
            yield Sample(
                f"seed:{field(row, 'question_id', (str, int), where)}", "seed_bench",
                FileImage(images, field(row, "data_id", str, where)), (Turn(question, answer),), kind, None,
                {"options": options},
            )  # fmt: skip

    return first(samples(), limit, path)


def science_qa_questions(
    path: ExistingFile,
    images: ExistingFile,
    prompt: str,
    split: Literal["train", "val", "test"],
    limit: Count | None = None,
) -> list[Sample]:
    """ScienceQA's questions that have an image; the others cannot be asked of a model that is always shown one.

    Args:
        path: `problems.json`.
        images: the folder that holds `<split>/<id>/<image>`.
        prompt: with {hint}, {question} and {options}; a hint comes as `Context: …` on a line of its own.
        split: train, val or test.
        limit: at most so many.
    """

    def samples() -> Iterator[Sample]:
        for number, row in table_of(read_json(path, PROBLEMS), path, PROBLEMS).items():
            where = f"{path}, problem {number}"
            if field(row, "split", str, where) != split or not row.get("image"):
                continue
            choices = field(row, "choices", list, where)
            options = {LETTERS[place]: str(text) for place, text in enumerate(choices)}
            right = field(row, "answer", int, where)
            if not 0 <= right < len(choices):
                raise WrongFile(
                    f"{where}: the answer {right} is no place among its {len(choices)} choices (0 is the first)"
                )
            hint = f"Context: {row['hint']}\n" if row.get("hint") else ""
            question = fill(
                prompt, hint=hint, question=field(row, "question", str, where), options=option_lines(options)
            )
            image = FileImage(images, f"{split}/{number}/{field(row, 'image', str, where)}")
            yield Sample(
                f"sqa:{number}", f"science_qa/{split}", image, (Turn(question, LETTERS[right]),), str(row.get("subject", "")),
                None, {"options": options},
            )  # fmt: skip

    return first(samples(), limit, path)
