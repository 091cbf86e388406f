"""Pair sets on disk: the pairs, what was dropped and why, and what made them.

    <folder>/pairs.parquet     one row per pair, images by reference; `datasets` and pandas read it
    <folder>/dropped.parquet   one row per sample that gave no pair: sample, source, reason, detail
    <folder>/manifest.json     who made it from what, with counts

The folder is written whole or not at all. The same pairs and manifest give the same bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from parallax.records.atomic import atomic_folder, atomic_write_json
from parallax.records.conversation import filled, told
from parallax.records.fingerprint import file_digest
from parallax.records.pair import Dropped, PreferencePair, Response
from parallax.records.sample import ASKED, ImageRef, Sample

GROUP = 16_384  # pairs written at a time: bounds memory
CONVERSATION = "conversation"  # key of `meta`: messages, images and rejected images by name and digest
FORMAT = 1  # of the files below; raised when their columns change
ResolveImage = Callable[[str, str], ImageRef]  # (sample id, image name as `describe()` gave it) -> image


class PairSet:
    """One folder with a set of preference pairs.

    Args:
        folder: the set's own folder, usually `<cache>/pairs/<key>`.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    @property
    def complete(self) -> bool:
        """True once the set has been written."""
        return (self.folder / "manifest.json").is_file()

    def write(
        self,
        pairs: Iterable[PreferencePair],
        dropped: Sequence[Dropped] = (),
        manifest: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Write the set and return its manifest. A complete set of the same folder is left as it is.

        `manifest` is plain data; `format`, `pairs`, `dropped`, `sources` and the digest of pairs.parquet are added.
        """
        import pyarrow
        from pyarrow import parquet

        if self.complete:
            return self.manifest()
        with atomic_folder(self.folder) as folder:
            count, sources, stream = 0, Counter[str](), iter(pairs)
            with parquet.ParquetWriter(folder / "pairs.parquet", _pair_schema()) as writer:
                while batch := list(islice(stream, GROUP)):
                    writer.write_table(pyarrow.Table.from_pylist([_row(pair) for pair in batch], schema=_pair_schema()))
                    count += len(batch)
                    sources.update(pair.source for pair in batch)
            gone = [
                {"sample_id": d.sample_id, "source": d.source, "reason": d.reason, "detail": d.detail} for d in dropped
            ]
            parquet.write_table(pyarrow.Table.from_pylist(gone, schema=_dropped_schema()), folder / "dropped.parquet")
            full = {
                **(manifest or {}),
                "format": FORMAT,
                "pairs": count,
                "dropped": dict(sorted(Counter(d.reason for d in dropped).items())),
                "sources": dict(sorted(sources.items())),
                "pairs_sha256": file_digest(folder / "pairs.parquet"),
            }
            atomic_write_json(folder / "manifest.json", full)
        return self.manifest()

    def manifest(self) -> dict[str, Any]:
        """The manifest. Raises FileNotFoundError when the set is not complete."""
        if not self.complete:
            raise FileNotFoundError(f"{self.folder} holds no complete pair set: it has no manifest.json")
        content: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text())
        if not isinstance(content, dict):
            raise ValueError(f"{self.folder} is no pair set: its manifest.json holds no names")
        if content.get("format") != FORMAT:
            raise ValueError(
                f"{self.folder} is a pair set of format {content.get('format')}; this program reads format {FORMAT}; "
                "build it again"
            )
        if not isinstance(content.get("pairs"), int) or not isinstance(content.get("dropped"), dict):
            raise ValueError(f"{self.folder} is no pair set: its manifest.json does not say how many pairs it holds")
        return content

    def load(self, resolve_image: ResolveImage) -> list[PreferencePair]:
        """The pairs, their images found by `resolve_image`. Raises ValueError when an image is not the one that was used."""
        return list(self._pairs(resolve_image))

    def dropped(self) -> list[Dropped]:
        """Samples that gave no pair, in the order they were met."""
        from pyarrow import parquet

        self.manifest()
        return [Dropped(**row) for row in parquet.read_table(self.folder / "dropped.parquet").to_pylist()]

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of pairs.parquet one after the other, a few hundred in memory at a time; `pair_of_row` reads them."""
        from pyarrow import parquet

        file = self.folder / "pairs.parquet"
        if file_digest(file) != self.manifest().get("pairs_sha256"):
            raise ValueError(
                f"{file} was changed after the set was written; remove {self.folder} and build the pairs again"
            )
        for batch in parquet.ParquetFile(self.folder / "pairs.parquet").iter_batches(batch_size=512):
            yield from batch.to_pylist()

    def _pairs(self, resolve_image: ResolveImage) -> Iterable[PreferencePair]:
        for row in self.rows():
            yield pair_of_row(row, partial(resolve_image, row["sample_id"]))


def images_of(items: Iterable[Sample | PreferencePair]) -> ResolveImage:
    """Finds the images of samples or pairs again; raises KeyError for an image that none of them has."""
    known: dict[tuple[str, str], ImageRef] = {}
    for item in items:
        name = item.id if isinstance(item, Sample) else item.sample_id
        others = () if isinstance(item, Sample) else item.rejected_images
        known |= {(name, image.describe()): image for image in (*item.images, *others)}
    return lambda sample_id, image: known[sample_id if (sample_id, image) in known else origin_of(sample_id), image]


def origin_of(sample_id: str) -> str:
    """The id of the sample that a question was written for; any other id as it is."""
    return sample_id.rpartition(ASKED)[0] or sample_id


def pair_of_row(row: Mapping[str, Any], image_of: Callable[[str], ImageRef]) -> PreferencePair:
    """One row of pairs.parquet as a pair; `image_of` finds an image by the name that `describe()` gave it.

    Raises ValueError when an image is not the one that the pair was built on.
    """
    meta = json.loads(row["meta"])
    more = meta.pop(CONVERSATION, None) or {"images": images_of_row(row)}
    images, others = (
        tuple(_as_built(image_of(name), name, digest, row["sample_id"]) for name, digest in more.get(side, ()))
        for side in ("images", "rejected_images")
    )
    chosen = Response(
        row["chosen"], _ids(row["chosen_token_ids"]), json.loads(row["chosen_provenance"]), row["chosen_score"]
    )
    columns = ("rejected", "rejected_token_ids", "rejected_provenance", "rejected_scores")
    rejected = tuple(
        Response(text, _ids(ids), json.loads(provenance), score)
        for text, ids, provenance, score in zip(*(row[name] for name in columns), strict=True)
    )
    return PreferencePair(
        sample_id=row["sample_id"], source=row["source"], image=images[0], prompt=row["prompt"], chosen=chosen,
        rejected=rejected, kind=row["kind"], meta=meta, messages=filled(more.get("messages", ()), images), rejected_images=others,
    )  # fmt: skip


def images_of_row(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and digest of every image of a row of pairs.parquet, those of the rejected side last."""
    more = json.loads(row["meta"]).get(CONVERSATION)
    if more is None:
        return [(row["image"], row["image_digest"])]
    return [(name, digest) for side in ("images", "rejected_images") for name, digest in more[side]]


def _as_built(image: ImageRef, name: str, built_on: str, sample_id: str) -> ImageRef:
    if (digest := image.digest()) != built_on:
        raise ValueError(
            f"image {name!r} of sample {sample_id!r} has changed since the pair was built (it was {built_on[:12]}, it is "
            f"{digest[:12]}); build the pairs again or put the old image back"
        )
    return image


def _meta(pair: PreferencePair) -> dict[str, Any]:
    """What is known of a pair, with its conversation where it is more than one image and one question."""
    if not pair.messages and not pair.rejected_images:
        return dict(pair.meta)
    more: dict[str, Any] = {"messages": told(pair.messages)}
    for side, images in (("images", pair.images), ("rejected_images", pair.rejected_images)):
        more[side] = [[image.describe(), image.digest()] for image in images]
    return {**pair.meta, CONVERSATION: more}


def _ids(ids: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if ids is None else tuple(ids)


def _plain(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value), sort_keys=True)


def _row(pair: PreferencePair) -> dict[str, Any]:
    return {
        "pair_id": pair.id,
        "sample_id": pair.sample_id,
        "source": pair.source,
        "kind": pair.kind,
        "image": pair.image.describe(),
        "image_digest": pair.image.digest(),
        "prompt": pair.prompt,
        "chosen": pair.chosen.text,
        "rejected": [r.text for r in pair.rejected],
        "chosen_score": pair.chosen.score,
        "rejected_scores": [r.score for r in pair.rejected],
        "chosen_token_ids": pair.chosen.token_ids,
        "rejected_token_ids": [r.token_ids for r in pair.rejected],
        "chosen_provenance": _plain(pair.chosen.provenance),
        "rejected_provenance": [_plain(r.provenance) for r in pair.rejected],
        "meta": _plain(_meta(pair)),
    }


def _pair_schema() -> Any:
    import pyarrow as pa

    text, ids = pa.string(), pa.list_(pa.int32())
    return pa.schema(
        [
            ("pair_id", text),  # content address: image, prompt, responses
            ("sample_id", text),
            ("source", text),
            ("kind", text),
            ("image", text),  # path inside the image root, or the name of a drawn scene
            ("image_digest", text),  # SHA-256 of the image file or of the recipe
            ("prompt", text),  # without the image placeholder
            ("chosen", text),
            ("rejected", pa.list_(text)),  # K answers
            ("chosen_score", pa.float64()),
            ("rejected_scores", pa.list_(pa.float64())),
            ("chosen_token_ids", ids),  # as generated, end token included; null for answers that came as text
            ("rejected_token_ids", pa.list_(ids)),
            ("chosen_provenance", text),  # JSON: candidate key, view, decoding, policy …
            ("rejected_provenance", pa.list_(text)),
            ("meta", text),  # JSON; `conversation` of a pair that is more than one image and one question
        ]
    )


def _dropped_schema() -> Any:
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in ("sample_id", "source", "reason", "detail")])
