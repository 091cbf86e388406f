"""Pairs for other programs: TRL, ms-swift, LLaMA-Factory, and those that read LLaVA's format (SIMA's and CSR's code).

Formats of one rejected answer get one row for each of a pair's K; such rows say by `negative` which of them they hold, and
`PreferenceFileSource` puts them together again. `id` and `data_source` are the sample's; the programs pass over them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.formats.pair_images import How, ImageFolder, original_bytes
from datamodules.formats.placeholders import IMAGE
from parallax.records import BadImage, PreferencePair
from parallax.records.atomic import atomic_folder, atomic_write_text

EMBEDS = ("trl",)  # formats that can hold images inside
ROWS_PER_GROUP = 500  # of Parquet: a reader holds so many images at a time


@dataclass
class Exported:
    """What was written."""

    folder: Path
    file: str
    pairs: int = 0
    rows: int = 0
    images: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def line(self) -> str:
        gone = ", ".join(f"{count:,} left out: {reason}" for reason, count in self.dropped.items())
        return (
            f"{self.pairs:,} pairs as {self.rows:,} rows with {self.images:,} images in {self.folder / self.file}"
            + (f" ({gone})" if gone else "")
        )


def export_pairs(pairs: Sequence[PreferencePair], folder: Path, form: str, images: How | None = None) -> Exported:
    """Write pairs in a format into a folder that does not exist yet. The folder is whole or absent.

    Args:
        form: one of `FORMATS`.
        images: `embedded` in the file, `files` copied below the folder, or `paths` to where they are; None for what suits the
            format (embedded where it can be).

    Raises ValueError or FileExistsError, in sentences, for what cannot be written.
    """
    if form not in FORMATS:
        raise ValueError(f"pairs cannot be exported as {form!r}; formats are {', '.join(FORMATS)}")
    how = images or ("embedded" if form in EMBEDS else "files")
    if how == "embedded" and form not in EMBEDS:
        raise ValueError(f"the format {form} names images by their paths; use task.images=files, or task.format=trl")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"task.output={folder} is not empty; name a folder that does not exist yet")
    if folder.exists():
        folder.rmdir()
    embedded = how == "embedded"
    done = Exported(folder, "pairs.parquet" if embedded else FORMATS[form].file)
    dropped: Counter[str] = Counter()
    with atomic_folder(folder) as temporary:
        store = ImageFolder(temporary, copy=how == "files")
        rows = _rows(pairs, FORMATS[form].row, None if embedded else store, done, dropped)
        _parquet(rows, temporary / done.file) if embedded else _text(rows, temporary / done.file)
        if form == "llama_factory":
            atomic_write_text(temporary / "dataset_info.json", json.dumps(DATASET_INFO, indent=2) + "\n")
    done.images, done.dropped = len(store.names) or done.images, dict(dropped)
    return done


def _rows(
    pairs: Iterable[PreferencePair], row: Row, store: ImageFolder | None, done: Exported, dropped: Counter[str]
) -> Iterator[dict[str, Any]]:
    seen = set()
    for pair in pairs:
        if any(IMAGE in response.text for response in pair.responses):
            dropped[f"an answer holds the text {IMAGE}"] += 1  # other programs would look for a second image there
            continue
        try:
            image: Any = store.name_of(pair.image) if store else {"bytes": original_bytes(pair.image), "path": None}
        except BadImage:
            dropped["its image cannot be read"] += 1
            continue
        seen.add(pair.image)
        done.pairs, done.images = done.pairs + 1, len(seen)
        for number, rejected in enumerate(pair.rejected, start=1):
            done.rows += 1
            more = {"negative": number} if len(pair.rejected) > 1 else {}
            yield {"id": pair.sample_id, "data_source": pair.source, **row(pair, rejected.text, image), **more}


def _said(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


def _turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": f"{IMAGE}\n{question}"}, {"from": "gpt", "value": answer}]


def _trl(pair: PreferencePair, rejected: str, image: Any) -> dict[str, Any]:
    return {
        "images": [image],
        "prompt": _said("user", pair.prompt),  # TRL puts the image before it
        "chosen": _said("assistant", pair.chosen.text),
        "rejected": _said("assistant", rejected),
    }


def _ms_swift(pair: PreferencePair, rejected: str, image: Any) -> dict[str, Any]:
    asked = _said("user", f"{IMAGE}{pair.prompt}")
    return {"messages": asked + _said("assistant", pair.chosen.text), "rejected_response": rejected, "images": [image]}


def _llama_factory(pair: PreferencePair, rejected: str, image: Any) -> dict[str, Any]:
    return {
        "conversations": _turns(pair.prompt, "")[:1],
        "chosen": {"from": "gpt", "value": pair.chosen.text},
        "rejected": {"from": "gpt", "value": rejected},
        "images": [image],
    }


def _llava(pair: PreferencePair, rejected: str, image: Any) -> dict[str, Any]:
    return {
        "image": image,
        "conversations": _turns(pair.prompt, pair.chosen.text),
        "rejected_conversations": _turns(pair.prompt, rejected),
    }


Row = Callable[[PreferencePair, str, Any], dict[str, Any]]


@dataclass(frozen=True)
class Format:
    """How a row is made, and the file's name where images lie outside of it."""

    row: Row
    file: str


FORMATS = {
    "trl": Format(_trl, "pairs.jsonl"),
    "ms_swift": Format(_ms_swift, "pairs.jsonl"),
    "llama_factory": Format(_llama_factory, "pairs.json"),
    "llava": Format(_llava, "pairs.json"),
}
DATASET_INFO = {  # what LLaMA-Factory has to be told about the file
    "pairs": {
        "file_name": "pairs.json",
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"},
    }
}


def _text(rows: Iterable[dict[str, Any]], file: Path) -> None:
    """JSON lines, or a JSON list with a row a line."""
    with open(file, "w", encoding="utf-8") as stream:
        if file.suffix == ".jsonl":
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            return
        stream.write("[")
        for number, row in enumerate(rows):
            stream.write(("," if number else "") + "\n" + json.dumps(row, ensure_ascii=False))
        stream.write("\n]\n")


def _parquet(rows: Iterable[dict[str, Any]], file: Path) -> None:
    """Parquet that `datasets` reads with its images as images."""
    import datasets
    import pyarrow
    from pyarrow import parquet

    text, message = datasets.Value("string"), {"role": datasets.Value("string"), "content": datasets.Value("string")}
    features = datasets.Features(
        {
            "id": text, "data_source": text, "images": datasets.List(datasets.Image()), "prompt": datasets.List(message),
            "chosen": datasets.List(message), "rejected": datasets.List(message), "negative": datasets.Value("int32"),
        }
    )  # fmt: skip
    schema = features.arrow_schema
    with parquet.ParquetWriter(file, schema) as writer:
        part: list[dict[str, Any]] = []
        for row in rows:
            part.append(row)
            if len(part) == ROWS_PER_GROUP:
                writer.write_table(pyarrow.Table.from_pylist(part, schema=schema))
                part = []
        writer.write_table(pyarrow.Table.from_pylist(part, schema=schema))
