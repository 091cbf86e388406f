"""LLaVA's fine-tuning JSON with its folder of images: `{"id", "image", "conversations": [{"from", "value"}, …]}` per entry.

Without `parts`, every entry with an image is one sample with all its turns. With `parts`, entries are sampled and cleaned as
SeVa does it (see `llava_parts`), and every drawn question is a sample of its own. Several files are read as one; the file's name
then goes before each id.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.formats.dialogues import dialogue_of
from datamodules.formats.found_images import FoundImages
from datamodules.formats.json_rows import json_rows
from datamodules.formats.listed import Listed, Unusable, existing, image_path, kind_of
from datamodules.formats.llava_parts import Part, parts_from
from datamodules.formats.placeholders import count_placeholders, without_placeholder
from parallax.records import Message, Sample, Turn, seed_for
from parallax.settings.ranges import AnyText, Count, Folder, Natural, RowsFile

SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One usable dialogue."""

    row: int
    id: str
    image: str  # its path, or the first one's
    turns: tuple[Turn, ...]
    file: Path
    opening: tuple[Message, ...] = ()


class LlavaJsonSource(Listed):
    """Samples of a LLaVA-format file.

    Args:
        path: the JSON list or JSON-lines file, or a list of them; files are read as a stream.
        image_root: folder that image paths are relative to; no path may lead out of it.
        parts: part name -> number of dialogues (or null, or a mapping of `Part` arguments); None takes every entry as it is.
        limit: only the first so many samples.
        seed: of the sampling of dialogues and questions.
        name: how the source is called; the part's name is added.
        image_prefix: put before each image's file name, such as `COCO_train2014_` where a file names COCO's images by number.
    """

    def __init__(
        self,
        path: RowsFile | Sequence[RowsFile],
        image_root: Folder,
        parts: Mapping[str, Any] | None = None,
        limit: Count | None = None,
        seed: Natural = 0,
        name: str = "llava_json",
        image_prefix: AnyText = "",
    ) -> None:
        files = [path] if isinstance(path, str | Path) else list(path)
        if not files:
            raise ValueError("data.path is an empty list; give at least one file")
        super().__init__(files[0], name, limit)
        self.files = [existing(file) for file in files]
        self.images = FoundImages(image_root, prefix=image_prefix)
        self.parts = parts_from(parts) if parts is not None else None
        self.seed = seed

    def _read(self) -> list[Sample]:
        if self.parts is None:
            samples = []
            for entry in self._entries():
                samples.append(self._sample(entry.id, self.name, entry, entry.turns))
                if self.limit is not None and len(samples) == self.limit:
                    break
            return samples
        return self._sampled(self.parts)

    def _sampled(self, parts: Mapping[str, Part]) -> list[Sample]:
        """The dialogues with the smallest hashes of each part, whatever their order in the file, in file order."""
        heaps: dict[str, list[tuple[int, int, Entry]]] = {name: [] for name in parts}
        for entry in self._entries():
            name = next((name for name, part in parts.items() if part.owns(entry.image)), None)
            if name is None:
                self.left_out["other_part"] += 1
                continue
            self.available[name] += 1
            heap, wanted = heaps[name], parts[name].entries
            item = (-seed_for(self.seed, entry.id, "entry"), self.rows, entry)
            if wanted is None or len(heap) < wanted:
                heapq.heappush(heap, item)
            else:
                heapq.heappushpop(heap, item)
                self.left_out["not_sampled"] += 1
        drawn = [(row, name, entry) for name, heap in heaps.items() for _, row, entry in heap]
        samples = [
            s for _, name, entry in sorted(drawn, key=lambda d: d[0]) for s in self._questions(name, parts[name], entry)
        ]
        return samples[: self.limit]

    def _questions(self, name: str, part: Part, entry: Entry) -> Iterator[Sample]:
        if part.questions is None:
            turns = tuple(Turn(part.clean(turn.question), turn.answer) for turn in entry.turns)
            if all(turn.question for turn in turns):
                yield self._sample(entry.id, f"{self.name}/{name}", entry, turns)
            else:
                self._set_aside(entry.row, "empty_question", "nothing is left of a question after cleaning", entry.file)
            return
        for turn in part.draw(len(entry.turns), self.seed, entry.id):
            asked = Turn(part.clean(entry.turns[turn].question), entry.turns[turn].answer)
            if asked.question:
                yield self._sample(f"{entry.id}#{turn}", f"{self.name}/{name}", entry, (asked,))
            else:
                why = "nothing is left of its question after cleaning"
                self._set_aside(f"{entry.row}#{turn}", "empty_question", why, entry.file)

    def _sample(self, name: str, source: str, entry: Entry, turns: tuple[Turn, ...]) -> Sample:
        shown = [part for turn in turns for part in turn.parts if not isinstance(part, str)]
        image = shown[0] if shown else self.images(entry.image, entry.id)
        return Sample(id=name, source=source, image=image, turns=turns, opening=entry.opening)

    def _entries(self) -> Iterator[Entry]:
        for file in self.files:
            yield from self._entries_of(file, f"{file.stem}/" if len(self.files) > 1 else "")

    def _entries_of(self, file: Path, prefix: str) -> Iterator[Entry]:
        before = self.rows
        for row in json_rows(file):
            self.rows += 1
            try:
                if row.error is not None:
                    raise Unusable("bad_row", row.error)
                if isinstance(row.value, dict) and shown_in(row.value) is None:
                    self.left_out["text_only"] += 1
                    continue
                image, opening, turns = self._dialogue(row.value)
                own = self._unique_id(row.value.get("id"), row.number, prefix)
                entry = Entry(row.number, own, image, turns, file, opening)
            except Unusable as unusable:
                self._set_aside(row.number, unusable.reason, unusable.why, file)
                continue
            yield entry
        self.counted[file.name] = self.rows - before

    def _dialogue(self, value: object) -> tuple[str, tuple[Message, ...], tuple[Turn, ...]]:
        """The first image's path, what opens the dialogue, and its turns. Raises `Unusable`."""
        if not isinstance(value, dict):
            raise Unusable("bad_row", f"it is {kind_of(value)}; an object with image and conversations is needed")
        images, said = shown_in(value), value.get("conversations", value.get("messages"))
        several = isinstance(images, list) and len(images) > 1
        if self.parts is None and (several or has_system(said)):
            listed = images if isinstance(images, list) else [images]
            return "", *dialogue_of(said, listed, lambda image: self.images(image, "image"))
        image = images[0] if isinstance(images, list) and len(images) == 1 else images
        written = isinstance(image, str) and image.startswith("data:")
        return (image if written else image_path(image)), (), turns_of(said)


def shown_in(row: Mapping[str, Any]) -> Any:
    """What an entry shows: what stands under `image`, else under `images`; None for an entry of text only."""
    return next((row[key] for key in ("image", "images") if row.get(key) not in (None, [])), None)


def has_system(said: object) -> bool:
    """Whether LLaVA's `conversations` begin with a system text."""
    first = said[0] if isinstance(said, list) and said else None
    return isinstance(first, dict) and str(first.get("from", first.get("role"))).lower() == "system"


def turns_of(said: object) -> tuple[Turn, ...]:
    """Questions and answers of LLaVA's `conversations`, without the image placeholder. Raises `Unusable`."""
    if not isinstance(said, list) or not said:
        raise Unusable("bad_row", "its conversations are missing or no list; a list of {from, value} is needed")
    questions: list[str] = []
    answers: list[str | None] = []
    for number, message in enumerate(said, start=1):
        text = message.get("value", message.get("content")) if isinstance(message, dict) else None
        if not isinstance(text, str):
            raise Unusable(
                "bad_row", f"message {number} has no text; each message is {{from, value}} or {{role, content}}"
            )
        given = message.get("from", message.get("role"))
        speaker = SPEAKERS.get(str(given)) or SPEAKERS.get(str(given).lower())
        if speaker == "user":
            questions.append(text)
            answers.append(None)
        elif speaker == "assistant":
            if not answers or answers[-1] is not None:
                raise Unusable("bad_row", f"message {number} is an answer without a question before it")
            answers[-1] = text
        elif speaker is None:
            raise Unusable("bad_row", f"message {number} is from {given!r}; known are {', '.join(SPEAKERS)}")
        else:
            raise Unusable("system_text", "it has a system message, which no sample here can carry")
    if (images := count_placeholders(*questions)) > 1:
        raise Unusable("several_images", f"it asks for {images} images; exactly one is supported")
    asked = [without_placeholder(question).strip() for question in questions]
    if not asked or not all(asked):
        raise Unusable("empty_question", "it has no question, or an empty one")
    return tuple(map(Turn, asked, answers))
