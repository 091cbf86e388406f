"""Caps on the size of a pair set: which pairs stay is drawn by a hash of their sample, never by their order.

Length balance over a whole set of pairs, so that being shorter is not what is learned (RLAIF-V, arXiv 2405.17220).

A judge that counts mistakes finds fewer in short answers. Pairs whose chosen answer is shorter than the rejected one by more than
a share of it are left out; the share is the one at which chosen and rejected answers are most nearly as long on average.
"""

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


SHARES = [step / 50 for step in range(50)]  # 0, 0.02 … 0.98, as in the released code


def balance_lengths(pairs: Sequence[PreferencePair]) -> tuple[list[PreferencePair], list[Dropped]]:
    """Pairs that stay, in their order, and those dropped as `unbalanced_length`. Lengths are in words.

    The share r minimises |mean |y_w| - mean |y_l|| / mean |y_l| over the pairs with (|y_l| - |y_w|) / |y_l| ≤ r, means over
    those pairs; of equal ones the largest r stays. |y_l| is the mean over a pair's rejected answers.
    """
    lengths = [
        (_words(pair.chosen.text), sum(_words(r.text) for r in pair.rejected) / len(pair.rejected)) for pair in pairs
    ]
    shorter = [(rejected - chosen) / max(rejected, 1.0) for chosen, rejected in lengths]
    best, least = SHARES[-1], float("inf")
    for share in reversed(SHARES):
        kept = [length for length, own in zip(lengths, shorter, strict=True) if own <= share]
        total = sum(rejected for _, rejected in kept)
        if kept and (uneven := abs(sum(chosen for chosen, _ in kept) - total) / max(total, 1.0)) < least:
            best, least = share, uneven
    stays = [own <= best for own in shorter]
    return (
        [pair for pair, stay in zip(pairs, stays, strict=True) if stay],
        [Dropped(p.sample_id, p.source, "unbalanced_length") for p, stay in zip(pairs, stays, strict=True) if not stay],
    )


def _words(text: str) -> int:
    return len(text.split())
