"""What a gallery shows: every pair a run built, every sample it dropped with the reason, every answer before and after.

An item is plain data for the page, and beside it stand the few values that filters and sorting need. Items come one after the
other, so that many thousands need no more memory than a few.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parallax.records import BadImage, Candidate, Dropped, ImageRef, PreferencePair, Response, ViewSpec
from parallax.records.candidate_store import CandidateStore
from parallax.records.images import together
from parallax.records.pair_store import PairSet, images_of_row, pair_of_row
from parallax.records.plain_text import quoted
from parallax.reports.comparison_answers import goodness, score_words
from parallax.reports.corrupted import OTHER_IMAGES, Subject, evaluation_subjects, pair_subjects, view_of
from parallax.reports.judge_notes import lines_of
from parallax.reports.run_folder import RunFolder, by_number
from parallax.reports.worddiff import Span, diff_words

log = logging.getLogger(__name__)

KEPT = "kept"
MOST_REJECTED = 8  # of one pair


@dataclass(frozen=True, slots=True)
class Item:
    """One row of the gallery. `data` is shown, `facts` are filtered and sorted by; pictures are drawn by the caller."""

    data: dict[str, Any]
    facts: dict[str, str | float | None]
    image: ImageRef | None = None
    views: list[ViewSpec] = field(default_factory=list)
    others: ImageRef | None = None  # the images on the rejected side, where the data has others there


def pair_sets(run: RunFolder) -> list[tuple[str, PairSet]]:
    """(stage, pair set) of each time the run built pairs, in order."""
    found = []
    for pointer in by_number([*run.folder.glob("stages/**/pairs.json"), *run.folder.glob("pairs.json")]):
        place = pointer.parent.relative_to(run.folder)
        stage = str(place.relative_to("stages")) if place.parts[:1] == ("stages",) else ""
        try:
            pairs = PairSet(Path(json.loads(pointer.read_text("utf-8"))["pair_set"]))
            pairs.manifest()
            found.append((stage, pairs))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning("the pairs of stage %s are left out: %s", stage or "–", quoted(error))
    return found


def pair_items(run: RunFolder) -> Iterator[Item]:
    """Kept pairs, then what was dropped, stage by stage. A pair set or an image that is gone is left out with a word."""
    cache = Path(str((run.config.get("paths") or {}).get("cache_dir") or "")).expanduser()
    for stage, pairs in pair_sets(run):
        try:
            yield from _items_of(pairs, stage, pair_subjects(run.config, stage), cache / "candidates")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning(
                "pairs of stage %s are left out: %s cannot be read (%s)", stage or "–", pairs.folder, quoted(error)
            )


def _items_of(pairs: PairSet, stage: str, subjects: Mapping[str, Subject], kept: Path) -> Iterator[Item]:
    recipes: dict[str, Mapping[str, Any]] = {}
    for pair in _each_pair(pairs, subjects):
        recipes.setdefault(pair.chosen.provenance.get("role", ""), pair.chosen.provenance)
        for response in pair.rejected:
            recipes.setdefault(response.provenance.get("role", ""), response.provenance)
        yield _pair_item(pair, stage)
    dropped = pairs.dropped()
    answers = answers_of_dropped([d.sample_id for d in dropped], list(recipes.values()), kept)
    for gone in dropped:
        yield _dropped_item(gone, stage, subjects.get(gone.sample_id), answers.get(gone.sample_id, []))


def _dropped_item(gone: Dropped, stage: str, subject: Subject | None, said: Sequence[Candidate]) -> Item:
    """A sample without a pair, with its answers as far as they are kept: the one that would have been chosen first."""
    first, others = (said[0].text if said else ""), said[1 : 1 + MOST_REJECTED]
    data = {
        "id": gone.sample_id,
        "prompt": subject.question if subject else "",
        "dropped": gone.reason,
        "detail": gone.detail,
        "chosen": _plain(diff_words(first, others[0].text if others else first)[0]) if said else None,
        "rejected": [
            {"spans": _plain(diff_words(first, other.text)[1]), "view": _view_words(other.spec.view)}
            for other in others
        ],
    }
    facts = {"outcome": f"dropped: {gone.reason}", "source": gone.source, "stage": stage, "kind": "",
             "words": float(len(first.split())) if said else None, "shared": None, "margin": None}  # fmt: skip
    views = [other.spec.view for other in others if other.spec.view.name != "identity"]
    return Item(data, facts, subject.image if subject else None, views)


def answer_items(run: RunFolder) -> Iterator[Item]:
    """Every question of the evaluation, with the answer before and after."""
    before, after = run.evaluation("before"), run.evaluation("after")
    old = {item.key: item for item in before.items} if before else {}
    new = {item.key: item for item in after.items} if after else {}
    subjects = evaluation_subjects(run.config) if old or new else {}
    for key in dict.fromkeys([*old, *new]):
        first, last = old.get(key), new.get(key)
        item = last or first
        assert item is not None
        change = goodness(last) - goodness(first) if first and last else 0.0
        trend = "" if not (first and last) else "improved" if change > 0 else "worse" if change < 0 else "unchanged"
        if trend == "unchanged" and first and last:
            trend = "same answer" if first.answer == last.answer else "other words, same worth"
        left, right = diff_words(first.answer if first else "", last.answer if last else "")
        subject = subjects.get(item.sample_id)
        yield Item(
            {
                "id": item.sample_id,
                "prompt": item.question,
                "truth": item.truth,
                "before": {"spans": _plain(left), "score": score_words(first)} if first else None,
                "after": {"spans": _plain(right), "score": score_words(last)} if last else None,
                "trend": trend,
            },
            {"change": trend, "suite": item.suite, "kind": item.kind, "words": float(len(item.answer.split()))},
            subject.image if subject else None,
        )


def _each_pair(pairs: PairSet, subjects: Mapping[str, Subject]) -> Iterator[PreferencePair]:
    """The pairs of a set. One whose images are gone or have changed is shown without them."""
    for row in pairs.rows():
        subject = subjects.get(row["sample_id"])
        there = {image.describe(): image for image in subject.images} if subject is not None else {}
        gone = {name: Gone(name, digest) for name, digest in images_of_row(row)}
        try:
            yield pair_of_row(row, (gone | there).__getitem__)
        except (ValueError, BadImage) as error:
            log.warning("a pair is shown without its image: %s", error)
            yield pair_of_row(row, gone.__getitem__)


@dataclass(frozen=True, slots=True)
class Gone:
    """Stands for an image that cannot be had any more."""

    name: str
    known_digest: str

    def load(self) -> Any:
        raise BadImage(f"image {self.name!r} is not to be had any more")

    def digest(self) -> str:
        return self.known_digest

    def describe(self) -> str:
        return self.name


def _pair_item(pair: PreferencePair, stage: str) -> Item:
    chosen, first = diff_words(pair.chosen.text, pair.rejected[0].text)
    margin = None
    if pair.chosen.score is not None and pair.rejected[0].score is not None:
        margin = pair.chosen.score - pair.rejected[0].score
    shared = sum(len(span.text) for span in chosen if not span.differs) / max(1, len(pair.chosen.text))
    shown = pair.rejected[:MOST_REJECTED]
    differing = [first, *(diff_words(pair.chosen.text, response.text)[1] for response in shown[1:])]
    views = [view for response in shown if (view := view_of(response)) is not None and view.name != "identity"]
    return Item(
        {
            "id": pair.sample_id,
            "prompt": pair.conversation.readable(),
            "chosen": _plain(chosen),
            "score": pair.chosen.score,
            "asked": _asked(pair.chosen, pair.prompt),
            "notes": lines_of(pair.chosen),
            "judged": lines_of(pair),
            "rejected": [
                {"spans": _plain(spans), "score": response.score,
                 "view": OTHER_IMAGES if pair.rejected_images else _view_words(view_of(response)),
                 "asked": _asked(response, pair.prompt),
                 "start": response.provenance.get("answer_start", ""), "notes": lines_of(response)}
                for response, spans in zip(shown, differing, strict=True)
            ],
            "more": len(pair.rejected) - len(shown),
            "image_name": together(pair.images).describe(),
        },
        {"outcome": KEPT, "source": pair.source, "stage": stage, "kind": pair.kind,
         "words": float(len(pair.chosen.text.split())), "shared": round(100 * shared, 1), "margin": margin},
        together(pair.images),
        views,
        together(pair.rejected_images) if pair.rejected_images else None,
    )  # fmt: skip


def _asked(response: Response, prompt: str) -> str:
    """The prompt a response was given to, where it is not the one trained on."""
    asked = str(response.provenance.get("prompt") or "")
    return asked if asked and asked != prompt else ""


def _view_words(view: ViewSpec | None) -> str:
    if view is None or view.name == "identity":
        return ""
    settings = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in view.params.items() if value is not None)
    return f"{view.name} {settings}".strip()[:120]


def _plain(spans: list[Span]) -> list[list[Any]]:
    return [[span.text, int(span.differs)] for span in spans]


SAME = ("policy", "precision", "processor", "template", "generator")  # of all answers of one pair set


def answers_of_dropped(
    sample_ids: Sequence[str], recipes: Sequence[Mapping[str, Any]], folder: Path
) -> dict[str, list[Candidate]]:
    """Sample id → its answers that were made as the pairs' answers were, chosen role first. Absent where none is kept.

    Args:
        sample_ids: of the dropped samples.
        recipes: provenance of one response of each role of the pair set.
        folder: of the candidate store.
    """
    import pyarrow
    import pyarrow.compute as pc
    from pyarrow import parquet

    if not sample_ids or not recipes or not folder.is_dir():
        return {}
    wanted = pyarrow.array(list(dict.fromkeys(sample_ids)))
    keys: list[str] = []
    for shard in sorted(folder.glob("*.parquet")):
        try:
            table = parquet.read_table(shard, columns=["key", "sample_id"])
        except (pyarrow.ArrowException, OSError) as error:
            log.warning("ignored %s: %s", shard, error)
            continue
        keys += table.filter(pc.is_in(table["sample_id"], value_set=wanted))["key"].to_pylist()
    found: dict[str, list[Candidate]] = {}
    for candidate in CandidateStore(folder).get_many(keys).values():
        if any(_made_alike(candidate, recipe) for recipe in recipes):
            found.setdefault(candidate.sample_id, []).append(candidate)
    order = [recipe.get("role") for recipe in recipes]
    return {name: sorted(said, key=lambda c: (order.index(c.role), c.index)) for name, said in found.items()}


def _made_alike(candidate: Candidate, recipe: Mapping[str, Any]) -> bool:
    """Whether only sample, seeds and index set the two apart."""
    spec, view, decoding = candidate.spec, recipe.get("view") or {}, dict(recipe.get("decoding") or {})
    ours = {name: getattr(spec.decoding, name) for name in decoding}
    decoding.pop("seed", None), ours.pop("seed", None)
    return (
        candidate.role == recipe.get("role")
        and all(getattr(spec, name) == recipe.get(name) for name in SAME)
        and (spec.view.name, dict(spec.view.params)) == (view.get("name"), view.get("params"))
        and decoding == ours
    )
