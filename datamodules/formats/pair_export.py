"""Pairs for other programs: TRL, ms-swift, LLaMA-Factory, and those that read LLaVA's format (SIMA's and CSR's code).

Formats of one rejected answer get one row for each of a pair's K; such rows say by `negative` which of them they hold, and
`PreferenceFileSource` puts them together again. `id` and `data_source` are the sample's; the programs pass over them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datamodules.formats.pair_images import How, ImageFolder, original_bytes
from datamodules.formats.placeholders import IMAGE
from parallax.records import BadImage, ImageRef, Message, PreferencePair
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


def export_pairs(
    pairs: Sequence[PreferencePair],
    folder: Path,
    form: str,
    images: How | None = None,
    card: Callable[[Exported], str] | None = None,
) -> Exported:
    """Write pairs in a format into a folder that does not exist yet. The folder is whole or absent.

    Args:
        form: one of `FORMATS`.
        images: `embedded` in the file, `files` copied below the folder, or `paths` to where they are; None for what suits the
            format (embedded where it can be).
        card: makes the `README.md` beside the file from the counts.

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
    with atomic_folder(folder) as temporary:
        store = ImageFolder(temporary, copy=how == "files")
        made = FORMATS[form]
        if in_parts := form == "trl" and not all(map(_in_front, pairs)):
            made = replace(made, row=_trl_parts)
        rows = _rows(pairs, made, None if embedded else store, done)
        _parquet(rows, temporary / done.file, in_parts) if embedded else _text(rows, temporary / done.file)
        if form == "llama_factory":
            atomic_write_text(temporary / "dataset_info.json", json.dumps(DATASET_INFO, indent=2) + "\n")
        if card is not None:
            atomic_write_text(temporary / "README.md", card(done))
    return done


def _rows(
    pairs: Iterable[PreferencePair], form: Format, store: ImageFolder | None, done: Exported
) -> Iterator[dict[str, Any]]:
    seen: set[ImageRef] = set()
    dropped: Counter[str] = Counter()
    for pair in pairs:
        asked = pair.conversation
        texts = [part for message in asked.messages for part in message.parts if isinstance(part, str)]
        if any(IMAGE in text for text in [*texts, *(response.text for response in pair.responses)]):
            dropped[f"a text holds {IMAGE}"] += 1  # other programs would look for a further image there
        elif pair.rejected_images and not form.compares_images:
            dropped["its rejected answer is beside other images, which this format cannot say"] += 1
        else:
            try:
                shown, others = (
                    [store.name_of(i) if store else {"bytes": original_bytes(i), "path": None} for i in images]
                    for images in (pair.images, pair.rejected_images)
                )
            except BadImage:
                dropped["its image cannot be read"] += 1
                continue
            seen.update((*pair.images, *pair.rejected_images))
            done.pairs += 1
            for number, rejected in enumerate(pair.rejected, start=1):
                done.rows += 1
                more = {"negative": number} if len(pair.rejected) > 1 else {}
                yield {
                    "id": pair.sample_id,
                    "data_source": pair.source,
                    **form.row(pair, rejected.text, shown, others),
                    **more,
                }
    done.images, done.dropped = len(seen), dict(dropped)


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _written(message: Message, gap: str = "") -> str:
    """A message with its pictures as `<image>`; `gap` follows the one picture of a plain question."""
    parts = [part if isinstance(part, str) else IMAGE for part in message.parts]
    return gap.join(parts) if parts[:1] == [IMAGE] and len(parts) == 2 else "".join(parts)


def _turns(messages: Iterable[Message]) -> list[dict[str, str]]:
    speakers = {"system": "system", "user": "human", "assistant": "gpt"}
    return [{"from": speakers[message.role], "value": _written(message, "\n")} for message in messages]


def _trl(pair: PreferencePair, rejected: str, images: list[Any], _: list[Any]) -> dict[str, Any]:
    """Contents are texts: TRL puts the images before the first question."""
    return {
        "images": images,
        "prompt": [_said(message.role, message.text) for message in pair.conversation.messages],
        "chosen": [_said("assistant", pair.chosen.text)],
        "rejected": [_said("assistant", rejected)],
    }


def _trl_parts(pair: PreferencePair, rejected: str, images: list[Any], _: list[Any]) -> dict[str, Any]:
    """Contents are parts, which say where each image stands."""
    asked = pair.conversation.messages
    return {
        "images": images,
        "prompt": [{"role": message.role, "content": _parts(message.parts)} for message in asked],
        "chosen": [{"role": "assistant", "content": _parts([pair.chosen.text])}],
        "rejected": [{"role": "assistant", "content": _parts([rejected])}],
    }


def _parts(parts: Iterable[str | ImageRef]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "text": None} for p in parts]


def _in_front(pair: PreferencePair) -> bool:
    """Whether all images stand before the first question."""
    first = next((message for message in pair.messages if message.role == "user"), None)
    return first is None or all(not isinstance(part, str) for part in first.parts[: len(pair.images)])


def _ms_swift(pair: PreferencePair, rejected: str, images: list[Any], others: list[Any]) -> dict[str, Any]:
    asked = [_said(message.role, _written(message)) for message in pair.conversation.messages]
    row: dict[str, Any] = {"messages": [*asked, _said("assistant", pair.chosen.text)]}
    if not pair.compares_images:
        row["rejected_response"] = rejected
    return {**row, "images": images, **({"rejected_images": others} if others else {})}


def _llama_factory(pair: PreferencePair, rejected: str, images: list[Any], _: list[Any]) -> dict[str, Any]:
    opening, *rest = asked = pair.conversation.messages
    system = opening.text if opening.role == "system" else ""
    return {
        "conversations": _turns(rest if system else asked),
        "system": system,  # in every row: their converter asks each for the column
        "chosen": {"from": "gpt", "value": pair.chosen.text},
        "rejected": {"from": "gpt", "value": rejected},
        "images": images,
    }


def _llava(pair: PreferencePair, rejected: str, images: list[Any], _: list[Any]) -> dict[str, Any]:
    asked = _turns(pair.conversation.messages)
    return {
        "image": images[0] if len(images) == 1 else images,
        "conversations": [*asked, {"from": "gpt", "value": pair.chosen.text}],
        "rejected_conversations": [*asked, {"from": "gpt", "value": rejected}],
    }


Row = Callable[
    [PreferencePair, str, list[Any], list[Any]], dict[str, Any]
]  # pair, rejected text, its images, rejected images


@dataclass(frozen=True)
class Format:
    """How a row is made, the file's name where images lie outside of it, and whether it can say what the rejected side shows."""

    row: Row
    file: str
    compares_images: bool = False


FORMATS = {
    "trl": Format(_trl, "pairs.jsonl"),
    "ms_swift": Format(_ms_swift, "pairs.jsonl", compares_images=True),
    "llama_factory": Format(_llama_factory, "pairs.json"),
    "llava": Format(_llava, "pairs.json"),
}
DATASET_INFO = {  # what LLaMA-Factory has to be told about the file
    "pairs": {
        "file_name": "pairs.json",
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {
            "messages": "conversations",
            "system": "system",
            "chosen": "chosen",
            "rejected": "rejected",
            "images": "images",
        },
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


def _parquet(rows: Iterable[dict[str, Any]], file: Path, in_parts: bool) -> None:
    """Parquet that `datasets` reads with its images as images. Contents are texts or, with `in_parts`, lists of parts."""
    import datasets
    import pyarrow
    from pyarrow import parquet

    text: Any = datasets.Value("string")
    message = {"role": text, "content": datasets.List({"type": text, "text": text}) if in_parts else text}
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
