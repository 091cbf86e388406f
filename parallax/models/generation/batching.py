"""Which requests meet in a batch: those about one image always, and else those of similar length.

An answer never depends on the batch it is made in; this decides speed only. Clean and corrupted views of an image, and several
prompts about it (as a judge asks them), stay together, so that the image is opened once and each view of it encoded once.
Within a batch, parts of a few rows each are prepared and read by the model one after the other: what the model computes
for a part stays in the processor's cache, and the next part can be prepared meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Sequence

from parallax.models.generation.requests import GenerationRequest

PART = 16  # rows read by the model at a time

Batch = list[list[int]]  # parts of places in the list of requests


def plan_batches(requests: Sequence[GenerationRequest], images: Sequence[str], batch_size: int) -> list[Batch]:
    """Batches of at most `batch_size` requests, in parts of at most `PART`; every place once.

    Args:
        images: digest of each request's image.
        batch_size: 1 or more. Requests about one image are only torn apart when there are more of them than that.
    """
    groups: dict[str, list[int]] = {}
    for place, image in enumerate(images):
        groups.setdefault(image, []).append(place)

    def length(place: int) -> tuple[int, int, int]:
        return requests[place].decoding.max_new_tokens, len(requests[place].conversation.written()), place

    ordered = sorted(groups.values(), key=lambda group: (*max(length(place)[:2] for place in group), group[0]))
    sorted_groups = [sorted(group, key=lambda place: (look(requests[place]), length(place))) for group in ordered]
    batches = []
    for batch in _packed(sorted_groups, batch_size):
        batches.append([[place for piece in part for place in piece] for part in _packed(batch, min(PART, batch_size))])
    return batches


def look(request: GenerationRequest) -> str:
    """Two requests about one image with the same look show the model the same pixels."""
    view = request.view
    return json.dumps([view.name, dict(view.params), view.seed], sort_keys=True, default=str)


def looks_of(requests: Sequence[GenerationRequest], images: Sequence[str]) -> list[Hashable]:
    """What each request shows the model: its image's digest and its look."""
    return [(image, look(request)) for request, image in zip(requests, images, strict=True)]


def _packed(groups: Iterable[list[int]], size: int) -> list[list[list[int]]]:
    """Groups, in order, in bins of at most `size` items; a group larger than a bin is cut."""
    bins: list[list[list[int]]] = []
    room = 0
    for group in groups:
        for start in range(0, len(group), size):
            piece = group[start : start + size]
            if len(piece) > room:
                bins.append([])
                room = size
            bins[-1].append(piece)
            room -= len(piece)
    return bins
