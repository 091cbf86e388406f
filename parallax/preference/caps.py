"""Caps on the size of a pair set: which pairs stay is drawn by a hash of their sample, never by their order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from parallax.records import Dropped, PreferencePair, seed_for


def cap(
    pairs: Sequence[PreferencePair],
    *,
    seed: int,
    max_per_source: int | Mapping[str, int] | None = None,
    max_pairs: int | None = None,
) -> tuple[list[PreferencePair], list[Dropped]]:
    """Keep at most so many pairs, in their order; the rest comes back as dropped.

    Args:
        max_per_source: one number for every source, or a number per source name (`llava_json/ocr_vqa`, or only its last part);
            sources that are not named are not capped.
        max_pairs: number over all sources, applied afterwards.
    """
    gone: dict[int, str] = {}
    if max_per_source is not None:
        groups: dict[str, list[int]] = defaultdict(list)
        for place, pair in enumerate(pairs):
            groups[pair.source].append(place)
        for source, places in groups.items():
            limit = _limit(max_per_source, source)
            gone |= dict.fromkeys(_beyond(pairs, places, seed, limit), "over_source_cap")
    left = [place for place in range(len(pairs)) if place not in gone]
    gone |= dict.fromkeys(_beyond(pairs, left, seed, max_pairs), "over_cap")
    kept = [pair for place, pair in enumerate(pairs) if place not in gone]
    dropped = [Dropped(pair.sample_id, pair.source, gone[place]) for place, pair in enumerate(pairs) if place in gone]
    return kept, dropped


def _limit(max_per_source: int | Mapping[str, int], source: str) -> int | None:
    if isinstance(max_per_source, int):
        return max_per_source
    return max_per_source.get(source, max_per_source.get(source.rsplit("/", 1)[-1]))


def _beyond(pairs: Sequence[PreferencePair], places: Sequence[int], seed: int, limit: int | None) -> list[int]:
    if limit is None or len(places) <= limit:
        return []
    drawn = sorted(places, key=lambda place: (seed_for(seed, pairs[place].sample_id, "cap"), place))
    return drawn[limit:]
