"""Descriptions whose sentences people have marked as right or wrong: one yes/no question for each, to learn a reward from.

[{"image": "1.jpg", "sentences": [{"text": "A dog lies there.", "right": true}, {"text": "It is red.", "right": false}]}, …]
"""

from __future__ import annotations

from datamodules.formats.json_rows import json_rows
from datamodules.formats.listed import Listed, Unusable, existing_root, image_path, shortened
from parallax.records import Sample, Turn
from parallax.records.images import FileImage
from parallax.settings.ranges import Count, Folder, RowsFile


class MarkedSentencesSource(Listed):
    """A JSON list, or JSON lines, of images with their marked sentences. The answers are `Yes.` and `No.`.

    Args:
        path: the file.
        image_root: folder that image paths start from.
        question: what is asked about each sentence; knows {claim}. The reward's judge asks the same.
        limit: only the first so many sentences.
        name: how the source is called.
    """

    def __init__(
        self,
        path: RowsFile,
        image_root: Folder,
        question: str,
        limit: Count | None = None,
        name: str = "marked_sentences",
    ) -> None:
        super().__init__(path, name, limit)
        if "{claim}" not in question:
            raise ValueError(f"data.question is {question!r}; it must show the sentence, as {{claim}}")
        self.image_root, self.question = existing_root(image_root), question

    def _read(self) -> list[Sample]:
        samples: list[Sample] = []
        for row in json_rows(self.path):
            self.rows += 1
            try:
                if row.error is not None:
                    raise Unusable("bad_row", row.error)
                samples += self._samples(row.value, row.number)
            except Unusable as unusable:
                self._set_aside(row.number, unusable.reason, unusable.why)
        return samples[: self.limit]

    def _samples(self, value: object, row: int) -> list[Sample]:
        if not isinstance(value, dict) or not isinstance(value.get("sentences"), list):
            raise Unusable(
                "bad_row", f"it is {shortened(value)}; an object with image and a list of sentences is needed"
            )
        picture = FileImage(str(self.image_root), image_path(value.get("image")))
        made = []
        for marked in value["sentences"]:
            text, right = (marked.get("text"), marked.get("right")) if isinstance(marked, dict) else (None, None)
            if not isinstance(text, str) or not text.strip() or not isinstance(right, bool):
                raise Unusable(
                    "bad_row", f"a sentence is {shortened(marked)}; a text and right (true or false) are needed"
                )
            asked = self.question.replace("{claim}", " ".join(text.split()))
            turn = Turn(asked, "Yes." if right else "No.")
            made.append(Sample(self._unique_id(value.get("id"), row), self.name, picture, (turn,), kind="sentence"))
        return made
