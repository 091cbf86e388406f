"""Any data set by the names of its columns: local Parquet, Arrow, JSON (lines), tar shards, or a set of the hub.

    python run.py data=columns data.path=shards data.columns.image=jpg data.columns.question=question

Rows are looked at once, to find out which can be used; after that they are read as they are needed. What is kept in memory is a
few bytes per row, so a set may be larger than memory.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.formats.dialogues import dialogue_of
from datamodules.formats.found_images import FoundImages
from datamodules.formats.json_rows import HALF, is_text
from datamodules.formats.listed import Unusable, kind_of
from datamodules.formats.llava_json import has_system, turns_of
from datamodules.formats.preference.base import Said, messages_with, parts_of, placed, without_gap
from datamodules.formats.tables import Table, open_table
from datamodules.formats.tables.open_table import keep_stream
from datamodules.source import Source
from parallax.preference.prompts import PromptPool
from parallax.records import ImageRef, Message, Sample, Turn
from parallax.records.skipped import SetAside
from parallax.settings.ranges import AnyText, Count, Folder, Natural, RowsOrHub
from parallax.settings.suggestions import closest, or_list

ROLES = ("image", "question", "answer", "conversations", "id", "objects")


class ColumnsSource(Source):
    """Samples of a table.

    Args:
        path: a file, a folder of files, a folder of `datasets`, or the name of a set on the hub (owner/name).
        columns: role -> column. `image` is needed; `question` with `answer` (or `conversations`, as LLaVA writes them) unless
            there are `prompts`; `id` and `objects` (a list of names) where there are such columns. null leaves a role out.
        image_root: folder that image paths are relative to, where the column holds paths and no pictures.
        prompts: questions to draw from, for a table without any.
        split, subset: of a set that has several.
        streaming: read only the first `limit` rows of the set and keep them below `cache_dir`.
        cache_dir: where they are kept.
        limit: only the first so many usable rows.
        seed: of the draw of questions.
        name: how the source is called.
        image_prefix: put before each image's file name.
    """

    def __init__(
        self,
        path: RowsOrHub,
        columns: Mapping[str, str | None],
        image_root: Folder | None = None,
        prompts: Sequence[str] | None = None,
        split: str = "train",
        subset: str | None = None,
        streaming: bool = False,
        cache_dir: Path | str | None = None,
        limit: Count | None = None,
        seed: Natural = 0,
        name: str = "columns",
        image_prefix: AnyText = "",
    ) -> None:
        self.path, self.name, self.limit, self.seed = str(path), name, limit, seed
        self.images = FoundImages(image_root, prefix=image_prefix)
        self.columns = _roles(columns)
        asks = "question" in self.columns or "conversations" in self.columns
        if not asks and not prompts:
            raise ValueError(
                "data.columns names no question, and there are no data.prompts to draw one from; give one of them"
            )
        self.pool = PromptPool(list(prompts or [])) if not asks else None
        if streaming:
            if limit is None or cache_dir is None:
                raise ValueError("data.streaming=true reads only the first data.limit rows; give data.limit")
            self.path = str(
                keep_stream(self.path, limit, Path(cache_dir).expanduser() / "streams", split=split, subset=subset)
            )
        self.table: Table = open_table(self.path, split=split, subset=subset)
        for role, column in self.columns.items():
            if column not in self.table.columns:
                near = closest(column, self.table.columns)
                raise ValueError(
                    f"data.columns.{role}={column}: {self.path} has no such column; it has {', '.join(self.table.columns)}."
                    + (f" Did you mean {or_list(near)}?" if near else "")
                )
        self.rows: int = 0
        self.set_aside: list[SetAside] = []
        self.left_out: Counter[str] = Counter()
        self.counted = {Path(self.path).name: len(self.table)}
        self._good: array[int] | None = None
        self._repeated: set[int] = set()  # rows whose id an earlier row has

    @property
    def good(self) -> array[int]:
        """Numbers of the rows that can be used."""
        if self._good is None:
            self._good = self._look()
        return self._good

    def __len__(self) -> int:
        return len(self.good)

    def __getitem__(self, place: int) -> Sample:  # type: ignore[override]
        row = self.good[place]
        return self._sample(self.table.row(row), row)

    def __iter__(self) -> Iterator[Sample]:
        good = iter(self.good)
        wanted = next(good, None)
        for place, row in enumerate(self.table.rows()):
            if wanted is None:
                return
            if place == wanted and not isinstance(row, ValueError):
                yield self._sample(row, place)
                wanted = next(good, None)

    def _look(self) -> array[int]:
        good, ids = array("q"), array("q")
        for place, row in enumerate(self.table.rows()):
            if self.limit is not None and len(good) == self.limit:
                break
            self.rows += 1
            try:
                if isinstance(row, ValueError):
                    raise Unusable("bad_row", str(row))
                if not is_text(row):
                    raise Unusable("bad_row", HALF)
                sample = self._sample(row, place)
            except Unusable as unusable:
                where = self.table.where(place)
                self.set_aside.append(SetAside(where, self.name, unusable.reason, f"{where}: {unusable.why}"))
                continue
            ids.append(hash(sample.id))
            good.append(place)
        firsts = np.unique(np.frombuffer(ids, dtype=np.int64), return_index=True)[1] if ids else ()
        if len(firsts) < len(good):
            self._repeated = set(good) - {good[place] for place in firsts}
        return good

    def _sample(self, row: Mapping[str, Any], place: int) -> Sample:
        given = row.get(self.columns.get("id", "__key__"))
        own = str(given).strip() if isinstance(given, str | int) and not isinstance(given, bool) else ""
        own = f"{own}~{place + 1}" if own and place in self._repeated else own or f"row{place + 1}"
        where = self.table.where(place).replace(", row ", ":")
        value = row.get(self.columns["image"])
        named = [one for one in value if one is not None] if isinstance(value, list | tuple) else [value]
        if not named:
            raise Unusable("no_image", "it has no image")
        if "conversations" in self.columns:
            said = row.get(self.columns["conversations"])
            if len(named) > 1 or has_system(said):
                opening, turns = dialogue_of(said, named, lambda image: self.images(image, where))
                return Sample(
                    own, self.name, self._first(opening, turns), turns, objects=self._objects(row), opening=opening
                )
        images = [self.images(image, where) for image in named]
        return Sample(own, self.name, images[0], self._turns(row, own, images), objects=self._objects(row))

    @staticmethod
    def _first(opening: Sequence[Message], turns: Sequence[Turn]) -> ImageRef:
        shown = (part for turn in turns for part in turn.parts if not isinstance(part, str))
        return next(shown)

    def _turns(self, row: Mapping[str, Any], own: str, images: Sequence[ImageRef]) -> tuple[Turn, ...]:
        if "conversations" in self.columns:
            return turns_of(row.get(self.columns["conversations"]))
        answer = row.get(self.columns["answer"]) if "answer" in self.columns else None
        if answer is not None and not isinstance(answer, str):
            raise Unusable("bad_row", f"its {self.columns['answer']} is {kind_of(answer)}; a text is needed")
        question = self.pool.draw(self.seed, own) if self.pool is not None else row.get(self.columns["question"])
        if not isinstance(question, str):
            raise Unusable("bad_row", f"its {self.columns['question']} is {kind_of(question)}; a text is needed")
        said = [Said("user", parts_of(question))]
        placed(said, tuple(images))
        asked = (without_gap(said[0]) if len(images) == 1 else said[0].text).strip()
        if not asked:
            raise Unusable("empty_question", "its question is empty")
        return (Turn(asked, answer, messages_with(said, images)[0].parts if len(images) > 1 else ()),)

    def _objects(self, row: Mapping[str, Any]) -> tuple[str, ...] | None:
        found = row.get(self.columns["objects"]) if "objects" in self.columns else None
        if found is None:
            return None
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise Unusable("bad_row", f"its {self.columns['objects']} is no list of names")
        return tuple(sorted({name.strip().lower() for name in found}))


def _roles(columns: Mapping[str, str | None]) -> dict[str, str]:
    """The roles that have a column. Raises ValueError for a role that is not known or a missing image."""
    if unknown := sorted(set(columns) - set(ROLES)):
        raise ValueError(f"data.columns.{unknown[0]} is no role; roles are {', '.join(ROLES)}")
    given = {role: column for role, column in columns.items() if column is not None}
    if "image" not in given:
        raise ValueError("data.columns.image is not given; name the column that holds the image")
    if "question" in given and "conversations" in given:
        raise ValueError("data.columns names both a question and conversations; give one of them")
    return given
