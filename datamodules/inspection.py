"""What a source holds, found out before anything is built on it: counts, images that are missing or broken, tokens, examples."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from datamodules.formats.official import expected_rows
from parallax.records import BadImage, ImageRef, Sample, seed_for
from parallax.records.images import FileImage

SHOWN = 3  # faults of a kind that are named
LONG = 10_000_000  # samples looked at, at most; a source of more is judged by its beginning


@dataclass
class Inspection:
    """Facts about one source, as plain data."""

    name: str
    counted: list[tuple[str, int, int | None]] = field(
        default_factory=list
    )  # file or folder, rows, rows of the official one
    rows: int | None = None
    samples: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    set_aside: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)  # the first few rows that cannot be used, in words
    sources: dict[str, int] = field(default_factory=dict)
    available: dict[str, int] = field(default_factory=dict)  # dialogues of each part that is sampled from
    folders: dict[str, int] = field(default_factory=dict)  # samples by the first folder of their image paths
    turns: int = 0
    answered: int = 0  # samples whose first question has an answer
    annotated: int = 0  # samples whose objects are known
    rejected: dict[int, int] = field(default_factory=dict)  # ready-made pairs by their number of rejected answers
    images: int = 0  # different ones
    missing: int = 0
    missing_names: list[str] = field(default_factory=list)
    opened: int = 0
    unreadable: list[str] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    context: int | None = None
    uncounted: str | None = None  # why tokens were not counted
    examples: list[dict[str, Any]] = field(default_factory=list)

    def partial(self) -> list[str]:
        """Files and folders that are smaller than the official ones, in words."""
        return [
            f"{name} holds {rows:,} of the {whole:,}" for name, rows, whole in self.counted if whole and rows < whole
        ]


def inspect(
    source: Any,
    *,
    images: int | None = 1000,
    workers: int | None = None,
    examples: int = 3,
    seed: int = 0,
    encoder: Callable[[], Any] | None = None,
) -> Inspection:
    """Look at a source.

    Args:
        source: samples, or ready-made pairs.
        images: how many are opened and decoded, drawn by seed; None for all. That files exist is checked for all.
        workers: threads that open images; None for as many as there are processors.
        examples: samples shown.
        seed: of the draw.
        encoder: gives the `PromptEncoder` of the policy, for tokens; None counts none.
    """
    samples: list[Sample] = list(islice(source, LONG))
    found = Inspection(str(getattr(source, "name", type(source).__name__)))
    found.counted = [(name, rows, expected_rows(name)) for name, rows in getattr(source, "counted", {}).items()]
    found.rows, found.samples = getattr(source, "rows", None), len(samples)
    found.left_out = dict(getattr(source, "left_out", {}))
    faulty = list(getattr(source, "set_aside", ()))
    found.set_aside = dict(Counter(item.reason for item in faulty).most_common())
    first_of_kind = {item.reason: item.why for item in reversed(faulty)}
    found.faults = list(first_of_kind.values())[:SHOWN]
    found.sources = dict(Counter(sample.source for sample in samples).most_common())
    found.available = dict(getattr(source, "available", {}))
    found.folders = dict(Counter(_folder(sample.image) for sample in samples).most_common(6))
    found.turns = sum(len(sample.turns) for sample in samples)
    found.answered = sum(bool(sample.answer) for sample in samples)
    found.annotated = sum(sample.objects is not None for sample in samples)
    pairs = getattr(source, "pairs", None)
    if pairs is not None:
        found.rejected = dict(sorted(Counter(len(pair.rejected) for pair in pairs).items()))
    of_image: dict[ImageRef, Sample] = {}
    for sample in samples:
        of_image.setdefault(sample.image, sample)
    found.images = len(of_image)
    gone = _missing(of_image)
    found.missing, found.missing_names = len(gone), sorted(image.describe() for image in gone)[:SHOWN]
    there = [sample for image, sample in of_image.items() if image not in gone]
    drawn = there if images is None or images >= len(there) else _draw(there, images, seed)
    sound = _open(found, drawn, workers)
    if encoder is not None and sound:
        _count_tokens(found, sound, encoder)
    shown = dict.fromkeys([*_one_of_each(sound or samples), *range(len(sound or samples))])
    found.examples = [_example((sound or samples)[place]) for place in islice(shown, examples)]
    return found


def _folder(image: ImageRef) -> str:
    parts = PurePosixPath(image.path).parts if isinstance(image, FileImage) else ()
    return parts[0] if len(parts) > 1 else "."


def _missing(images: Iterable[ImageRef]) -> set[ImageRef]:
    """Files that are not there. Each folder is listed once, which is far cheaper than asking for every file."""
    by_folder: dict[Path, list[tuple[str, FileImage]]] = defaultdict(list)
    for image in images:
        if isinstance(image, FileImage):
            full = Path(image.root, image.path)
            by_folder[full.parent].append((full.name, image))
    gone: set[ImageRef] = set()
    for folder, files in by_folder.items():
        try:
            with os.scandir(folder) as entries:
                there = {entry.name for entry in entries}
        except OSError:
            there = set()
        gone |= {image for name, image in files if name not in there}
    return gone


def _draw(samples: Sequence[Sample], wanted: int, seed: int) -> list[Sample]:
    places = sorted(range(len(samples)), key=lambda place: seed_for(seed, samples[place].id, "inspected"))[:wanted]
    return [samples[place] for place in sorted(places)]


def _open(found: Inspection, samples: Sequence[Sample], workers: int | None) -> list[Sample]:
    """Decode the images of the samples, several at a time; those whose image is sound are returned."""

    def size_of(sample: Sample) -> tuple[int, int] | str:
        try:
            return sample.image.load().size
        except BadImage as bad:
            return str(bad)

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        sizes = list(pool.map(size_of, samples))
    found.opened = len(samples)
    found.unreadable = [size for size in sizes if isinstance(size, str)]
    for size in sizes:
        if not isinstance(size, str):
            found.widths.append(size[0])
            found.heights.append(size[1])
    return [sample for sample, size in zip(samples, sizes, strict=True) if not isinstance(size, str)]


def _count_tokens(found: Inspection, samples: Sequence[Sample], encoder: Callable[[], Any]) -> None:
    from parallax.models.encoding.token_counts import TokenCounts

    try:
        made = encoder()
        found.context = made.max_context
        counts = TokenCounts(made)
        refused = {id(sample): why for sample in samples if (why := counts.refused(sample.image)) is not None}
        found.unreadable += refused.values()
        taken = [(sample.image, sample.question) for sample in samples if id(sample) not in refused]
        found.tokens = counts.prompts(taken)
    except (OSError, ValueError, BadImage) as error:
        found.uncounted = str(error)


def _one_of_each(samples: Sequence[Sample]) -> list[int]:
    """The first sample of each source."""
    first: dict[str, int] = {}
    for place, sample in enumerate(samples):
        first.setdefault(sample.source, place)
    return list(first.values())


def _example(sample: Sample) -> dict[str, Any]:
    return {"id": sample.id, "source": sample.source, "image": sample.image.describe(), "question": sample.question,
            "answer": sample.answer, "turns": len(sample.turns)}  # fmt: skip


def spread(values: Sequence[int]) -> dict[str, int]:
    """Smallest, median, 95th percentile and largest of some numbers."""
    ordered = np.percentile(np.asarray(values), [0, 50, 95, 100])
    return dict(zip(("min", "median", "p95", "max"), (int(value) for value in ordered), strict=True))
