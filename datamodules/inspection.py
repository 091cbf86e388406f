"""What a source holds, found out before anything is built on it: counts, images that are missing or broken, tokens, what a run
would drop, duplicates, examples."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from datamodules.formats.official import expected_rows
from datamodules.inspected_prompts import Asked, prompt_facts
from datamodules.source import as_source
from parallax.models.encoding.prompt_encoder import PromptEncoder
from parallax.preference.selector import Selector
from parallax.records import BadImage, Dropped, ImageRef, PreferencePair, Response, Sample, seed_for
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
    samples_without: int = 0  # samples one of whose images is missing
    missing_names: list[str] = field(default_factory=list)
    opened: int = 0
    unreadable: list[str] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    answer_tokens: list[int] = field(
        default_factory=list
    )  # of the longest answer to each prompt whose answers are known
    context: int | None = None
    uncounted: str | None = None  # why tokens were not counted
    refused: dict[str, int] = field(default_factory=dict)  # samples looked at that the model cannot take, by reason
    refused_why: list[str] = field(default_factory=list)
    control_tokens: dict[str, int] = field(default_factory=dict)  # the model's control tokens that stand in texts
    images_each: dict[int, int] = field(default_factory=dict)  # samples by their number of images
    with_opening: int = 0  # samples with a system text or earlier turns
    rejected_images: int = 0  # pairs that show the rejected answer beside other images
    dropped: dict[str, int] = field(default_factory=dict)  # ready-made pairs that the selector drops, by reason
    duplicates: int = 0  # of the samples opened: as many ask the same about the same images as an earlier one
    overlap: dict[str, int] = field(default_factory=dict)  # of the images opened: so many are in an evaluation suite
    examples: list[dict[str, Any]] = field(default_factory=list)

    def partial(self) -> list[str]:
        """Files and folders that are smaller than the official ones, in words."""
        return [
            f"{name} holds {rows:,} of the {whole:,}" for name, rows, whole in self.counted if whole and rows < whole
        ]


def inspect(
    source: Sequence[Sample],
    *,
    images: int | None = 1000,
    workers: int | None = None,
    examples: int = 3,
    seed: int = 0,
    encoder: Callable[[], PromptEncoder] | None = None,
    room: int = 1,
    selector: Selector | None = None,
    looks_at_images: bool = False,
    evaluated: Mapping[str, Set[str]] | None = None,
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
    source = as_source(source)
    samples: list[Sample] = list(islice(source, LONG))
    found = Inspection(source.name)
    found.counted = [(name, rows, expected_rows(name)) for name, rows in source.counted.items()]
    found.rows, found.samples, found.left_out = source.rows, len(samples), dict(source.left_out)
    faulty = list(source.set_aside)
    found.set_aside = dict(Counter(item.reason for item in faulty).most_common())
    first_of_kind = {item.reason: item.why for item in reversed(faulty)}
    found.faults = list(first_of_kind.values())[:SHOWN]
    found.sources = dict(Counter(sample.source for sample in samples).most_common())
    found.available = dict(source.available)
    found.folders = dict(Counter(_folder(sample.image) for sample in samples).most_common(6))
    found.turns = sum(len(sample.turns) for sample in samples)
    found.answered = sum(bool(sample.answer) for sample in samples)
    found.annotated = sum(sample.objects is not None for sample in samples)
    found.images_each = dict(sorted(Counter(len(sample.images) for sample in samples).items()))
    found.with_opening = sum(bool(sample.opening) for sample in samples)
    pairs = source.pairs
    if pairs is not None:
        _look_at_pairs(found, pairs, selector, looks_at_images)
    of_image: dict[ImageRef, list[int]] = {}
    for place, sample in enumerate(samples):
        for image in sample.images:
            of_image.setdefault(image, []).append(place)
    found.images = len(of_image)
    gone = _missing(of_image)
    found.missing, found.missing_names = len(gone), sorted(image.describe() for image in gone)[:SHOWN]
    found.samples_without = len({place for image in gone for place in of_image[image]})
    there = [place for place, sample in enumerate(samples) if not any(image in gone for image in sample.images)]
    drawn = there if images is None or images >= len(there) else _draw(samples, there, images, seed)
    sound = _open(found, samples, drawn, workers, evaluated or {})
    if encoder is not None and sound:
        asked = [_asked(samples[place], pairs[place] if pairs is not None else None) for place in sound]
        _look_at_prompts(found, asked, encoder, room)
    whole = [samples[place] for place in sound] or samples
    shown = dict.fromkeys([*_one_of_each(whole), *range(len(whole))])
    found.examples = [_example(whole[place]) for place in islice(shown, examples)]
    return found


def _look_at_pairs(
    found: Inspection, pairs: Sequence[PreferencePair], selector: Selector | None, looks_at_images: bool
) -> None:
    found.rejected = dict(sorted(Counter(len(pair.rejected) for pair in pairs).items()))
    found.rejected_images = sum(bool(pair.rejected_images) for pair in pairs)
    dropped: Counter[str] = Counter()
    for pair in pairs:
        if pair.rejected_images and not looks_at_images:
            dropped["rejected_images"] += 1
        elif selector is not None and isinstance(outcome := selector.check(pair), Dropped):
            dropped[outcome.reason] += 1
    found.dropped = dict(dropped.most_common())


def _asked(sample: Sample, pair: PreferencePair | None) -> Asked:
    if pair is not None:
        return Asked(pair.conversation, pair.responses)
    return Asked(sample.conversation(), (Response(sample.answer),) if sample.answer else ())


def _look_at_prompts(
    found: Inspection, asked: Sequence[Asked], encoder: Callable[[], PromptEncoder], room: int
) -> None:
    try:
        made = encoder()
        facts = prompt_facts(made, asked, room)
    except (OSError, ValueError) as error:
        found.uncounted = str(error)
        return
    found.context, found.tokens = made.max_context, facts.prompts
    found.answer_tokens = [count for count in facts.answers if count]
    found.refused, found.refused_why = dict(facts.refused), facts.why[:SHOWN]
    found.control_tokens = dict(facts.control_tokens.most_common())


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


def _draw(samples: Sequence[Sample], there: Sequence[int], wanted: int, seed: int) -> list[int]:
    places = sorted(there, key=lambda place: seed_for(seed, samples[place].id, "inspected"))[:wanted]
    return sorted(places)


def _open(
    found: Inspection,
    samples: Sequence[Sample],
    places: Sequence[int],
    workers: int | None,
    evaluated: Mapping[str, Set[str]],
) -> list[int]:
    """Decode the images of some samples, several at a time; places of those whose images are all sound are returned."""
    images = list(dict.fromkeys(image for place in places for image in samples[place].images))

    def look(image: ImageRef) -> tuple[tuple[int, int], str] | str:
        try:
            return image.load().size, image.digest()
        except BadImage as bad:
            return str(bad)

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        seen = dict(zip(images, pool.map(look, images), strict=True))
    found.opened = len(images)
    found.unreadable = [looked for looked in seen.values() if isinstance(looked, str)]
    known = {image: looked for image, looked in seen.items() if not isinstance(looked, str)}
    found.widths = [size[0] for size, _ in known.values()]
    found.heights = [size[1] for size, _ in known.values()]
    digests = {digest for _, digest in known.values()}
    found.overlap = {name: common for name, theirs in evaluated.items() if (common := len(digests & theirs))}
    sound = [place for place in places if all(image in known for image in samples[place].images)]
    about = Counter(
        (tuple(known[image][1] for image in samples[place].images), samples[place].conversation().written())
        for place in sound
    )
    found.duplicates = sum(count - 1 for count in about.values())
    return sound


def _one_of_each(samples: Sequence[Sample]) -> list[int]:
    """The first sample of each source."""
    first: dict[str, int] = {}
    for place, sample in enumerate(samples):
        first.setdefault(sample.source, place)
    return list(first.values())


def _example(sample: Sample) -> dict[str, Any]:
    asked = sample.conversation()
    return {"id": sample.id, "source": sample.source, "image": asked.describe(), "question": asked.readable(),
            "answer": sample.answer, "turns": len(sample.turns)}  # fmt: skip


def spread(values: Sequence[int]) -> dict[str, int]:
    """Smallest, median, 95th percentile and largest of some numbers."""
    ordered = np.percentile(np.asarray(values), [0, 50, 95, 100])
    return dict(zip(("min", "median", "p95", "max"), (int(value) for value in ordered), strict=True))
