"""Ready-made preference pairs: SeVa's, STIC's, SIMA's and CSR's JSON, TRL's Parquet or JSON lines, ms-swift's and
LLaMA-Factory's files, and our own pair sets.

The rows' forms are in `preference_rows`. Images are files below `image_root`, or bytes inside the Parquet file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from datamodules.formats.json_rows import Row, json_rows
from datamodules.formats.listed import Listed, Unusable, existing_root, image_path
from datamodules.formats.parquet_image import ParquetImage
from datamodules.formats.preference_rows import FORMATS, PARSERS, detect
from parallax.records import BadImage, ImageRef, PreferencePair, Response, Sample, Turn
from parallax.records.images import FileImage
from parallax.records.pair_store import pair_of_row
from parallax.settings.ranges import Count, ExistingPath, Natural, OneOf

NEGATIVE = (
    "negative"  # of a row: which rejected answer of its pair it holds, from 1; rows from 2 on belong to the row before
)


Format = Annotated[str, OneOf("auto", FORMATS)]


class PreferenceFileSource(Listed[PreferencePair]):
    """Preference pairs of one file, or of a folder of Parquet files.

    As a sequence it gives samples (the prompt, with the chosen answer as the answer); `pairs` gives the pairs.

    Args:
        path: `.json` (list or lines), `.jsonl`, `.parquet`, or a folder with Parquet files or with a pair set of ours.
        image_root: folder that image paths are relative to; None when the images lie inside the file.
        format: seva, stic, sima, csr, llava, trl, ms_swift, llama_factory, parallax, or auto to tell by the first row.
        limit: only the first so many pairs.
        seed: unused, taken so that every source is configured alike.
        name: how the source is called.
        file_names_only: take only the last part of every image path (CSR's files hold absolute paths of its authors' machine).
    """

    holds_pairs: ClassVar[bool] = True  # ready-made pairs: nothing is proposed

    def __init__(
        self,
        path: ExistingPath,
        image_root: ExistingPath | None = None,
        format: Format = "auto",
        limit: Count | None = None,
        seed: Natural = 0,
        name: str = "preference_file",
        file_names_only: bool = False,
    ) -> None:
        super().__init__(path, name, limit)
        if format != "auto" and format not in FORMATS:
            raise ValueError(f"data.format is {format!r}; it can be auto, {', '.join(FORMATS)}")
        self.image_root = existing_root(image_root) if image_root is not None else None
        self.format, self.file_names_only = format, file_names_only

    @property
    def pairs(self) -> list[PreferencePair]:
        """All usable pairs, in file order."""
        return self.items

    def __getitem__(self, place: int) -> Sample:  # type: ignore[override]
        return _sample(self.items[place])

    def __iter__(self) -> Iterator[Sample]:  # type: ignore[override]
        return (_sample(pair) for pair in self.items)

    def _read(self) -> list[PreferencePair]:
        pairs: list[PreferencePair] = []
        form = self.format
        for row, embedded in self._rows():
            goes_on = isinstance(row.value, Mapping) and _goes_on(row.value) and bool(pairs)
            if self.limit is not None and len(pairs) == self.limit and not goes_on:
                break
            self.rows += 1
            try:
                if row.error is not None or not isinstance(row.value, Mapping):
                    raise Unusable("bad_row", row.error or f"it is a {type(row.value).__name__}; an object is needed")
                if form == "auto":
                    form = self._detected(row.value)
                if goes_on:
                    pairs[-1] = self._one_more(pairs[-1], form, row)
                else:
                    pairs.append(self._pair(form, row, embedded))
            except Unusable as unusable:
                self._set_aside(row.number, unusable.reason, unusable.why)
            except BadImage as bad:
                self._set_aside(row.number, "bad_image", str(bad))
        return pairs

    def _detected(self, row: Mapping[str, Any]) -> str:
        try:
            return detect(row)
        except ValueError as error:
            raise ValueError(f"{self.path} is not understood: {error}") from error

    def _pair(self, form: str, row: Row, embedded: ParquetImage | None) -> PreferencePair:
        value: Mapping[str, Any] = row.value
        if form == "parallax":
            return self._own(value)
        parsed = PARSERS[form](value)
        told = value.get("data_source")
        image = embedded if embedded is not None and not _is_path(parsed.image) else self._file(parsed.image)
        given = next((value[key] for key in ("id", "sample_id", "uid") if value.get(key) is not None), None)
        return PreferencePair(
            sample_id=self._unique_id(given, row.number),
            source=told if isinstance(told, str) and told else self.name,
            image=image,
            prompt=parsed.prompt,
            chosen=Response(parsed.chosen, provenance={"file": self.path.name, "row": row.number}),
            rejected=tuple(
                Response(text, provenance={"file": self.path.name, "row": row.number}) for text in parsed.rejected
            ),
        )

    def _one_more(self, pair: PreferencePair, form: str, row: Row) -> PreferencePair:
        """The pair before with this row's rejected answer: a pair with K answers may be written as K rows."""
        value: Mapping[str, Any] = row.value
        parsed = PARSERS[form](value)
        if str(value.get("id")) != pair.sample_id or (parsed.prompt, parsed.chosen) != (pair.prompt, pair.chosen.text):
            raise Unusable(
                "bad_row", f"it is rejected answer {value[NEGATIVE]} of a pair, and the row before is of another pair"
            )
        more = [Response(text, provenance={"file": self.path.name, "row": row.number}) for text in parsed.rejected]
        return replace(pair, rejected=(*pair.rejected, *more))

    def _own(self, value: Mapping[str, Any]) -> PreferencePair:
        try:
            return pair_of_row(value, self._file(value.get("image")))
        except ValueError as error:
            raise Unusable("bad_row", str(error)) from error

    def _file(self, value: Any) -> ImageRef:
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, Mapping):
            value = value.get("path")
        path = image_path(value)
        if self.image_root is None:
            raise Unusable("no_image", f"its image is the file {path!r}; set data.image_root to the folder it lies in")
        return FileImage(str(self.image_root), Path(path).name if self.file_names_only else path)

    def _rows(self) -> Iterator[tuple[Row, ParquetImage | None]]:
        files = [self.path]
        if self.path.is_dir():
            own = self.path / "pairs.parquet"
            files = [own] if own.is_file() else sorted(self.path.rglob("*.parquet"))
            if not files:
                raise FileNotFoundError(
                    f"data.path {self.path} holds no Parquet file; give the file itself or a folder with some"
                )
        if files[0].suffix == ".parquet":
            yield from _parquet_rows(files)
        else:
            yield from ((row, None) for row in json_rows(self.path))


def _parquet_rows(files: Sequence[Path]) -> Iterator[tuple[Row, ParquetImage | None]]:
    """Rows of Parquet files; image bytes are replaced by a handle to their place."""
    import pyarrow
    from pyarrow import parquet

    number = 0
    for file in files:
        try:
            opened = parquet.ParquetFile(file)
        except pyarrow.ArrowException as error:
            raise ValueError(f"{file} is no Parquet file that can be read ({error})") from error
        column = next((name for name in ("images", "image") if name in opened.schema_arrow.names), None)
        for group in range(opened.num_row_groups):
            for row, value in enumerate(opened.read_row_group(group).to_pylist()):
                number += 1
                embedded = None
                if column is not None and _has_bytes(value[column]):
                    embedded = ParquetImage(str(file), group, row, column, f"{file.name}:{number}")
                    value[column] = None if column == "image" else [None]
                yield Row(number, value), embedded


def _goes_on(value: Mapping[str, Any]) -> bool:
    return isinstance(value.get(NEGATIVE), int) and value[NEGATIVE] > 1


def _has_bytes(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) == 1 and _has_bytes(value[0])
    if isinstance(value, Mapping):
        return bool(value.get("bytes"))
    return isinstance(value, bytes)


def _is_path(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) == 1 and _is_path(value[0])
    return isinstance(value, str)


def _sample(pair: PreferencePair) -> Sample:
    return Sample(pair.sample_id, pair.source, pair.image, (Turn(pair.prompt, pair.chosen.text),), kind=pair.kind)
