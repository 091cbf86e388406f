"""MMBench's TSV files, English and Chinese: one question per row, the image as base64 in the row or by another row's number.

    index  question  hint  A  B  C  D  answer  category  image  l2-category  split

A file may hold the rotations of a question as rows of their own, numbered index + 1 000 000 · k; where it does not, rotations are
made here: with n options, the options are turned n − 1 times, each time by one place.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parallax.evaluation.choices import option_lines
from parallax.evaluation.files.reading import WrongFile, existing, fill
from parallax.records import BadImage, Sample, Turn, bytes_digest
from parallax.records.images import MAX_PIXELS, upright_rgb
from parallax.settings.ranges import Count, ExistingFile

if TYPE_CHECKING:
    from PIL import Image

EXPECTED = "an MMBench TSV with the columns index, question, A, B, answer and image"
ROTATION = 1_000_000  # rows of one question differ by multiples of it


@dataclass(frozen=True, slots=True)
class RowImage:
    """The image of one row, read from the file when it is needed."""

    path: str
    start: int  # bytes from the beginning of the file to the base64 text
    length: int
    index: int

    def load(self) -> Image.Image:
        return upright_rgb(io.BytesIO(self._bytes()), self.describe(), MAX_PIXELS)

    def digest(self) -> str:
        return _digest(self, Path(self.path).stat().st_mtime_ns)

    def describe(self) -> str:
        return f"{Path(self.path).name}:{self.index}"

    def _bytes(self) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.start)
            text = file.read(self.length)
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadImage(f"the image of row {self.index} of {self.path} is no base64 ({error})") from error


@lru_cache(maxsize=100_000)
def _digest(image: RowImage, modified_ns: int) -> str:
    return bytes_digest(image._bytes())


def mmbench_questions(
    path: ExistingFile,
    prompt: str,
    circular: bool,
    split: str | None,
    limit: Count | None = None,
) -> list[Sample]:
    """MMBench's questions, each with all rotations of its options (the samples of one group).

    Args:
        path: the TSV file.
        prompt: with {hint}, {question} and {options}.
        circular: False leaves the rotations out, which asks a question once.
        split: only rows of this split, where the file has such a column. Rows without an answer are an error.
        limit: at most so many questions.
    """
    file = existing(Path(path), EXPECTED)
    rows = {row["index"]: row for row in _rows(file)}
    if not rows:
        raise WrongFile(f"{file} has no rows; expected {EXPECTED}")
    samples: list[Sample] = []
    questions = 0
    for index, row in rows.items():
        if index >= ROTATION or (split is not None and row.get("split") not in (None, "", split)):
            continue
        if limit is not None and questions >= limit:
            break
        questions += 1
        given = [row, *(rows[index + ROTATION * k] for k in range(1, 10) if index + ROTATION * k in rows)]
        turned = given if len(given) > 1 or not circular else [*_rotations(row)]
        for rotation, one in enumerate(turned if circular else turned[:1]):
            samples.append(_sample(file, rows, one, index, rotation, prompt))
    if not samples:
        raise WrongFile(f"{file} has no question of the split {split!r}; look at its column `split`, or use split=null")
    return samples


def _sample(
    file: Path, rows: dict[int, dict[str, Any]], row: dict[str, Any], index: int, rotation: int, prompt: str
) -> Sample:
    options = _options(row)
    answer = str(row.get("answer") or "").strip()
    if answer not in options:
        raise WrongFile(
            f"{file}, index {row['index']}: the answer {answer!r} is none of its options {', '.join(options)}; "
            "the test split is published without answers, use the dev split"
        )
    hint = f"{row['hint']}\n" if row.get("hint") else ""
    question = fill(prompt, hint=hint, question=str(row["question"]), options=option_lines(options))
    return Sample(
        f"mmbench:{index}:{rotation}", "mmbench", _image(file, rows, row), (Turn(question, answer),),
        str(row.get("l2-category") or row.get("category") or ""), None,
        {"options": options, "group": str(index), "rotation": rotation},
    )  # fmt: skip


def _options(row: dict[str, Any]) -> dict[str, str]:
    return {letter: row[letter] for letter in "ABCDEFGH" if row.get(letter) not in (None, "", "nan")}


def _rotations(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The row itself, then its options turned by one, two, … places."""
    options, right = _options(row), str(row.get("answer") or "").strip()
    letters = list(options)
    for turn in range(len(letters)):
        places = {letters[place]: options[letters[(place + turn) % len(letters)]] for place in range(len(letters))}
        answer = letters[(letters.index(right) - turn) % len(letters)] if right in letters else right
        yield {**row, **places, "answer": answer}


def _image(file: Path, rows: dict[int, dict[str, Any]], row: dict[str, Any]) -> RowImage:
    seen = {row["index"]}
    while True:
        start, length, text = row["image"]
        if not text.isdigit():
            return RowImage(str(file), start, length, row["index"])
        other = int(text)
        if other in seen or other not in rows:
            raise WrongFile(f"{file}, index {row['index']}: its image is that of row {other}, which has none")
        seen.add(other)
        row = rows[other]


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """Rows with their image as (start, length, text if it is short): the images themselves stay in the file."""
    csv.field_size_limit(sys.maxsize)
    with file.open("rb") as stream:
        header = stream.readline().decode("utf-8-sig").rstrip("\r\n").split("\t")
        missing = [name for name in ("index", "question", "A", "B", "answer", "image") if name not in header]
        if missing:
            raise WrongFile(f"{file}, line 1: no column {', '.join(missing)}; expected {EXPECTED}")
        place, number = stream.tell(), 1
        for text in _records(stream):
            number += 1
            line = text.decode("utf-8").rstrip("\r\n")
            if not line:
                place += len(text)
                continue
            cells = next(csv.reader([line], delimiter="\t"), [])
            if len(cells) != len(header):
                raise WrongFile(
                    f"{file}, row {number}: {len(cells)} cells where {len(header)} should be; is it cut off?"
                )
            row: dict[str, Any] = dict(zip(header, cells, strict=True))
            picture = str(row["image"])
            start = place + text.rindex(picture.encode()) if picture else place
            row["image"] = (start, len(picture), picture if len(picture) <= 20 else "x")
            try:
                row["index"] = int(float(row["index"]))
            except ValueError:
                raise WrongFile(f"{file}, row {number}: the index {row['index']!r} is no number") from None
            yield row
            place += len(text)


def _records(stream: Iterable[bytes]) -> Iterator[bytes]:
    """Lines of the file; a line break inside quotes does not end one."""
    record = b""
    for line in stream:
        record += line
        if record.count(b'"') % 2 == 0:
            yield record
            record = b""
    if record:
        yield record
