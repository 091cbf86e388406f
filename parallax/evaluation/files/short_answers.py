"""Files of benchmarks with short free answers: TextVQA, VizWiz, GQA, ChartQA."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from parallax.evaluation.files.reading import WrongFile, existing, field, fill, first, read_json, rows_of, table_of
from parallax.records import Sample, Turn
from parallax.records.images import FileImage
from parallax.settings.ranges import Count, ExistingFile

TEXT_VQA = "TextVQA_0.5.1_val.json: an object with `data`, a list of {question_id, image_id, question, answers}"
VIZWIZ = "VizWiz's val.json: a list of {image, question, answers, answer_type}"
GQA = "GQA's testdev_balanced_questions.json: a mapping from an id to {question, imageId, answer, types}"
CHARTS = "ChartQA's test_human.json or test_augmented.json: a list of {imgname, query, label}"


def text_vqa_questions(
    path: ExistingFile, images: ExistingFile, prompt: str, limit: Count | None = None
) -> list[Sample]:
    """TextVQA's validation questions with their ten answers.

    Args:
        path: `TextVQA_0.5.1_val.json`.
        images: the folder `train_images` with `<image_id>.jpg`.
        prompt: with {question}. LLaVA's own question file adds the words an OCR system found; this one does not.
        limit: at most so many.
    """
    data = read_json(path, TEXT_VQA)
    if not isinstance(data, dict):
        raise WrongFile(f"{path} holds {type(data).__name__}; expected {TEXT_VQA}")

    def samples() -> Iterator[Sample]:
        for place, row in enumerate(rows_of(field(data, "data", list, path), path, TEXT_VQA), start=1):
            where = f"{path}, question {place}"
            answers = _texts(field(row, "answers", list, where), where)
            image = FileImage(images, f"{field(row, 'image_id', str, where)}.jpg")
            question = fill(prompt, question=field(row, "question", str, where))
            number = field(row, "question_id", (int, str), where)
            yield Sample(
                f"textvqa:{number}",
                "text_vqa",
                image,
                (Turn(question, _most_common(answers)),),
                "",
                None,
                {"answers": answers},
            )

    return first(samples(), limit, path)


def vizwiz_questions(path: ExistingFile, images: ExistingFile, prompt: str, limit: Count | None = None) -> list[Sample]:
    """VizWiz's validation questions. Those nobody could answer have the answer `unanswerable`.

    Args:
        path: `val.json`.
        images: the folder with `VizWiz_val_00000000.jpg` and so on.
        prompt: with {question}.
        limit: at most so many.
    """

    def samples() -> Iterator[Sample]:
        for place, row in enumerate(rows_of(read_json(path, VIZWIZ), path, VIZWIZ), start=1):
            where = f"{path}, entry {place}"
            given = field(row, "answers", list, where)
            answers = _texts([a.get("answer") if isinstance(a, dict) else a for a in given], where)
            name = field(row, "image", str, where)
            question = fill(prompt, question=field(row, "question", str, where))
            yield Sample(
                f"vizwiz:{name}", "vizwiz", FileImage(images, name), (Turn(question, _most_common(answers)),),
                str(row.get("answer_type", "")), None, {"answers": answers},
            )  # fmt: skip

    return first(samples(), limit, path)


def gqa_questions(path: ExistingFile, images: ExistingFile, prompt: str, limit: Count | None = None) -> list[Sample]:
    """GQA's balanced questions; their kind is `open` (structural type query) or `binary` (all others).

    Args:
        path: `testdev_balanced_questions.json`.
        images: the folder with `<imageId>.jpg`.
        prompt: with {question}.
        limit: at most so many.
    """

    def samples() -> Iterator[Sample]:
        for number, row in table_of(read_json(path, GQA), path, GQA).items():
            where = f"{path}, question {number}"
            kind = "open" if (row.get("types") or {}).get("structural") == "query" else "binary"
            image = FileImage(images, f"{field(row, 'imageId', str, where)}.jpg")
            turn = Turn(fill(prompt, question=field(row, "question", str, where)), field(row, "answer", str, where))
            yield Sample(f"gqa:{number}", "gqa", image, (turn,), kind)

    return first(samples(), limit, path)


def chart_qa_questions(
    path: ExistingFile,
    images: ExistingFile,
    prompt: str,
    halves: Sequence[Literal["human", "augmented"]],
    limit: Count | None = None,
) -> list[Sample]:
    """ChartQA's test questions, each half with the same weight.

    Args:
        path: the folder with `test_human.json` and `test_augmented.json`.
        images: the folder of the charts.
        prompt: with {question}.
        halves: which files to read.
        limit: at most so many of each half.
    """
    read: dict[str, list[Sample]] = {}
    for half in halves:
        file = existing(Path(path) / f"test_{half}.json", CHARTS)
        read[half] = first(_charts(file, half, images, prompt), limit, file)
    total = sum(map(len, read.values()))
    return [
        Sample(s.id, s.source, s.image, s.turns, s.kind, None, {"weight": total / (len(read) * len(half))})
        for half in read.values()
        for s in half
    ]


def _charts(file: Path, half: str, images: ExistingFile, prompt: str) -> Iterator[Sample]:
    for place, row in enumerate(rows_of(read_json(file, CHARTS), file, CHARTS), start=1):
        where = f"{file}, entry {place}"
        turn = Turn(
            fill(prompt, question=field(row, "query", str, where)), str(field(row, "label", (str, int, float), where))
        )
        yield Sample(
            f"chartqa:{half}:{place}", "chart_qa", FileImage(images, field(row, "imgname", str, where)), (turn,), half
        )


def _texts(answers: list[Any], where: str) -> list[str]:
    if not answers or not all(isinstance(answer, str) for answer in answers):
        raise WrongFile(f"{where}: 'answers' must be a list of texts, one per person, and is {answers!r:.80}")
    return list(answers)


def _most_common(answers: list[str]) -> str:
    """What most people said; for readers of a report. The first said of several."""
    return max(dict.fromkeys(answers), key=answers.count)
