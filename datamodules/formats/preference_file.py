"""Ready-made preference pairs, in whatever form people have them: see `preference/` for the forms of rows and `tables/` for the
kinds of files."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar, Literal

from datamodules.formats.found_images import FoundImages
from datamodules.formats.listed import Unusable, unique_id
from datamodules.formats.portions import Portions, comes_in_portions
from datamodules.formats.preference import FORMATS, Choices, Format, RawPair, recognised
from datamodules.formats.preference.base import messages_with
from datamodules.formats.preference.dataset_info import Declared, declared
from datamodules.formats.preference.kto import Verdicts, is_verdict
from datamodules.formats.preference.named_columns import by_names, check_reached
from datamodules.formats.tables import Table, open_table
from datamodules.source import Source
from parallax.records import BadImage, Conversation, PreferencePair, Response, Sample, Turn
from parallax.records.disk_pairs import DiskPairs
from parallax.records.pair_store import pair_of_row
from parallax.records.skipped import SetAside
from parallax.settings.ranges import Count, Folder, Natural, NotNegative, RowsOrHub

log = logging.getLogger(__name__)

OWN = "parallax"  # a pair set of ours
NEGATIVE = (
    "negative"  # of a row: which rejected answer of its pair it holds, from 1; from 2 on it belongs to the row before
)
ONE_ANSWER = {"conversations", "messages", "answer", "response", "output"}
LOOKED_AT = 200  # rows by which the format of a file is told


class PreferenceFileSource(Source):
    """Preference pairs of a file, of several, of a folder, or of a set of the hub.

    As a sequence it gives samples (the prompt, with the chosen answer as the answer); `pairs` gives the pairs.

    Args:
        path: JSON (a list or lines), Parquet, Arrow, tar or zip files, a folder, a pair set of ours, or the name of a set on the
            hub (owner/name).
        image_root: folder that image paths are relative to; None when the images lie inside the file.
        format: one of `FORMATS`, `parallax`, or auto: each row is read by the form it has, and rows of none by the form that
            most of the first rows have.
        columns: which column holds what, for rows of no known form: question, chosen, rejected and image, and rejected_image,
            system, id and source where there are any. A dot reaches into a column that is an object or a JSON text.
        split: of a set, or of a folder whose files are named so; `all` takes every file.
        subset: of a set on the hub; an entry of dataset_info.json; a pattern of names in MMPR's meta file.
        limit: only the first so many pairs.
        seed: of portions.
        name: how the source is called.
        file_names_only: take only the last part of every image path.
        portion: rows read at a time where a fit can take one portion after the other and the file has more than
            `portions.LARGE`; None for all at once.
        pairing, min_margin, aspects: how pairs are made of completions with scores (see `preference.base.Choices`).

    Attributes:
        rows, set_aside, left_out: rows looked at; those that are faulty; those that are fine, but show no image (counted).
    """

    holds_pairs: ClassVar[bool] = True

    def __init__(
        self,
        path: RowsOrHub | Sequence[RowsOrHub],
        image_root: Folder | None = None,
        format: str = "auto",
        columns: Mapping[str, str | None] | None = None,
        split: str = "train",
        subset: str | None = None,
        limit: Count | None = None,
        seed: Natural = 0,
        name: str = "preference_file",
        file_names_only: bool = False,
        pairing: Literal["all", "best_worst"] = "all",
        min_margin: NotNegative = 0.0,
        aspects: Sequence[str] | None = None,
        portion: Count | None = None,
    ) -> None:
        if format not in ("auto", OWN, *FORMATS):
            raise ValueError(f"data.format is {format!r}; it can be auto, {', '.join((*FORMATS, OWN))}")
        self.choices = Choices(pairing, min_margin, tuple(aspects or ()))
        self.name, self.limit, self.split, self.subset = name, limit, split, subset
        self.form = format
        self.named_columns, self.read_columns = dict(columns or {}), by_names(columns) if columns else None
        self.paths = [str(one) for one in ([path] if isinstance(path, str | Path) else path)]
        self.path = Path(self.paths[0]) if self.paths else Path()
        there = self.path.expanduser()
        beside = there if there.is_dir() else there.parent if there.is_file() else None
        self.images = FoundImages(image_root, file_names_only, beside=beside)
        self.table, self.declared = self._opened()
        self.seed, self.portion = seed, portion
        self._taken: Sequence[int] | None = None  # the rows that are read; None for all
        self.rows: int = 0
        self.set_aside: list[SetAside] = []
        self.left_out: Counter[str] = Counter()
        self._pairs: DiskPairs | None = None

    @property
    def pairs(self) -> Sequence[PreferencePair]:
        """All usable pairs, in file order. Their texts lie on disk, so that a million take little memory."""
        if self._pairs is None:
            self.rows, self.set_aside, self.left_out, self._ids = 0, [], Counter(), set[str]()
            self._pairs = self._read()
        return self._pairs

    def portions(self, first: int, most: int | None = None) -> Portions | None:
        """Those that can be read one after the other (see `Portions`). None where all rows are read at once: there are few, or
        they belong together, or cannot be found by number."""
        if self.portion is None or self.limit is not None or not comes_in_portions(self.table):
            return None
        head = islice(self.table.rows(), LOOKED_AT)
        if any(isinstance(row, dict) and (NEGATIVE in row or is_verdict(self._row(row))) for row in head):
            return None
        return Portions(self.table, self.portion, self.seed, first=first, most=most)

    def take(self, rows: Sequence[int]) -> None:
        """Read these rows only, which are in file order."""
        if rows != self._taken:
            self._taken, self._pairs = rows, None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, place: int) -> Sample:  # type: ignore[override]
        return _sample(self.pairs[place])

    def __iter__(self) -> Iterator[Sample]:
        return (_sample(pair) for pair in self.pairs)

    # -- rows ------------------------------------------------------------------------------------------------------

    def _opened(self) -> tuple[Table, Declared | None]:
        folder = Path(self.paths[0]).expanduser() if len(self.paths) == 1 else None
        if folder is not None and (folder / "pairs.parquet").is_file() and (folder / "manifest.json").is_file():
            return open_table(str(folder / "pairs.parquet")), None
        found = declared(folder, self.subset) if folder is not None and folder.exists() else None
        paths: str | list[str] = (
            str(found.file) if found is not None else self.paths[0] if folder is not None else self.paths
        )
        return open_table(paths, split=self.split, subset=self.subset), found

    def _read(self) -> DiskPairs:
        pairs, verdicts = DiskPairs(), Verdicts()
        last: PreferencePair | None = None  # may yet get another rejected answer
        rows = self._numbered()
        head = list(islice(rows, LOOKED_AT))
        usual = self._usual([row for _, row in head])
        for place, row in chain(head, rows):
            goes_on = isinstance(row, dict) and _goes_on(row) and last is not None
            if self.limit is not None and len(pairs) + (last is not None) >= self.limit and not goes_on:
                break
            self.rows += 1
            try:
                if isinstance(row, ValueError):
                    raise Unusable("bad_row", str(row))
                if goes_on and last is not None:
                    last = self._one_more(last, self._raw(row, usual), row, place)
                    continue
                if self.read_columns is None and isinstance(row, dict) and is_verdict(full := self._row(row)):
                    verdicts.add(full, place)
                    continue
                for made in self._made(row, usual, place):
                    if last is not None:
                        pairs.append(last)
                    last = made
            except Unusable as unusable:
                if unusable.reason == "text_only":
                    self.left_out["text_only"] += 1
                else:
                    self._set_aside(place, unusable.reason, unusable.why)
            except BadImage as bad:
                self._set_aside(place, "bad_image", str(bad))
        if last is not None and (self.limit is None or len(pairs) < self.limit):
            pairs.append(last)
        for place, found in verdicts.pairs(self.choices):
            if isinstance(found, Unusable):
                self._set_aside(place, found.reason, found.why)
                continue
            for raw in found:
                if self.limit is None or len(pairs) < self.limit:
                    pairs.append(self._pair(raw, place))
        return pairs

    def _numbered(self) -> Iterator[tuple[int, dict[str, Any] | ValueError]]:
        if self._taken is None:
            return enumerate(self.table.rows())
        return zip(self._taken, self.table.rows_at(self._taken), strict=True)

    def _usual(self, head: Sequence[Any]) -> Format | None:
        """The form that most of the first rows have. Raises ValueError where none has a known one."""
        if self.form in FORMATS:
            return FORMATS[self.form]
        rows = [self._row(row) for row in head if isinstance(row, dict)]
        check_reached(self.named_columns, rows, self.paths[0])
        if self.form == OWN or self.read_columns is not None or not rows or _is_own(rows[0]):
            return None
        if any(row.get("tools") for row in rows):
            log.warning("%s: tools that rows name are not shown to the model", self.paths[0])
        known = Counter(found.names[0] for row in rows if (found := recognised(row)) is not None)
        if not known and any({"chosen", "rejected"} <= row.keys() for row in rows):
            return FORMATS["trl"]  # each row says that it lacks a prompt
        if not known:
            keys = ", ".join(sorted(map(str, rows[0])))
            raise ValueError(
                f"{self.paths[0]} is not understood: its first row has the keys {keys}, which is none of the known formats "
                f"({', '.join((*FORMATS, OWN))}); name it with data.format, or say which column holds what with "
                f"data.columns={{question: …, chosen: …, rejected: …, image: …}}{_hint(rows[0])}"
            )
        return FORMATS[known.most_common(1)[0][0]]

    def _row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row without what is empty, under the names that `dataset_info.json` stands for."""
        full = {name: value for name, value in row.items() if value is not None}
        return self.declared.row(full) if self.declared is not None else full

    def _raw(self, row: Mapping[str, Any], usual: Format | None) -> list[RawPair]:
        full = self._row(row)
        if self.read_columns is not None:
            found: list[RawPair] = self.read_columns(full, self.choices)
            return found
        form = FORMATS.get(self.form) or recognised(full) or usual
        if form is None:
            raise Unusable("unknown_form", f"its keys are {', '.join(sorted(map(str, full)))}, which is no known form")
        return list(form.read(full, self.choices))

    # -- pairs -----------------------------------------------------------------------------------------------------

    def _made(self, row: Mapping[str, Any], usual: Format | None, place: int) -> list[PreferencePair]:
        if self.form == OWN or (self.form == "auto" and self.read_columns is None and _is_own(row)):
            try:
                return [pair_of_row(row, lambda name: self.images(name, self.table.where(place)))]
            except ValueError as error:
                raise Unusable("bad_row", str(error)) from error
        return [self._pair(raw, place) for raw in self._raw(row, usual)]

    def _pair(self, raw: RawPair, place: int) -> PreferencePair:
        where = self.table.where(place).replace(", row ", ":")
        images = [self.images(image, where) for image in raw.images]
        plain = len(raw.messages) == 1 and len(images) == 1
        messages = () if plain else Conversation(messages_with(raw.messages, images)).as_messages()
        return PreferencePair(
            sample_id=unique_id(self._ids, raw.id, place + 1),
            source=raw.source or self.name,
            image=images[0],
            prompt=raw.messages[-1].text,
            chosen=self._response(raw.chosen, place),
            rejected=tuple(self._response(text, place) for text in raw.rejected),
            kind=raw.kind,
            messages=messages,
            rejected_images=tuple(self.images(image, where) for image in raw.rejected_images),
        )

    def _response(self, text: str, place: int) -> Response:
        return Response(text, provenance={"file": self.path.name, "row": place + 1})

    def _one_more(
        self, pair: PreferencePair, found: list[RawPair], row: Mapping[str, Any], place: int
    ) -> PreferencePair:
        """The pair before with this row's rejected answer: a pair with K answers may be written as K rows."""
        (raw,) = found
        if str(raw.id) != pair.sample_id or (raw.messages[-1].text, raw.chosen) != (pair.prompt, pair.chosen.text):
            raise Unusable(
                "bad_row", f"it is rejected answer {row[NEGATIVE]} of a pair, and the row before is of another pair"
            )
        return replace(pair, rejected=(*pair.rejected, *(self._response(text, place) for text in raw.rejected)))

    def _set_aside(self, place: int, reason: str, why: str) -> None:
        where = self.table.where(place)
        self.set_aside.append(SetAside(where.replace(", row ", ":"), self.name, reason, f"{where}: {why}"))


def _hint(row: Mapping[str, Any]) -> str:
    """What else may read rows of which each has one answer."""
    if any("reject" in name for name in map(str, row)) or not ONE_ANSWER & row.keys():
        return ""
    return ". Its rows have one answer each and no rejected one: data=llava_json and data=columns read such"


def _is_own(row: Mapping[str, Any]) -> bool:
    return {"pair_id", "image_digest", "chosen_token_ids"} <= row.keys()


def _goes_on(value: Mapping[str, Any]) -> bool:
    return isinstance(value.get(NEGATIVE), int) and value[NEGATIVE] > 1


def _sample(pair: PreferencePair) -> Sample:
    asked = pair.conversation
    turn = Turn(pair.prompt, pair.chosen.text, asked.messages[-1].parts if pair.messages else ())
    return Sample(
        pair.sample_id,
        pair.source,
        pair.image,
        (turn,),
        kind=pair.kind,
        opening=asked.messages[:-1] if pair.messages else (),
    )
