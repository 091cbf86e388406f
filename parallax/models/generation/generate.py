"""Batched generation with the live model: many images and questions at once, the same tokens as one at a time.

Requests about one image share a batch, and so do requests of similar length (`batching`); images and prompts are prepared
while the model decodes what came before (`prompt_stream`); a batch is read in parts and decoded as a whole (`rollout`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Protocol

import torch

from parallax.models.backbone import base_model
from parallax.models.encoding.prompt_encoder import PromptEncoder
from parallax.models.foreign import VLM
from parallax.models.generation.prefetch import EncodedPart, PromptStream, explained, refusal, workers_for
from parallax.models.generation.requests import (
    Batch,
    Generation,
    GenerationCounts,
    GenerationRequest,
    NotFinite,
    looks_of,
    plan_batches,
)
from parallax.models.generation.rollout import Rollout
from parallax.models.memory.room import Room
from parallax.records import BadImage, GenerationSpec
from parallax.records.interruption import leave_if_asked

VERSION = 1  # of this decoding; a change that may change tokens raises it, and cached candidates are made again
AHEAD = 2  # batches that may lie ready while the model decodes

SetAside = Callable[[GenerationRequest, str], None]
Finished = Callable[[dict[int, Generation]], None]


@torch.no_grad()
def generate(
    model: VLM,
    encoder: PromptEncoder,
    requests: Sequence[GenerationRequest],
    *,
    batch_size: int,
    num_workers: int | str = "auto",
    progress: Callable[[int], None] | None = None,
    set_aside: SetAside | None = None,
    finished: Finished | None = None,
    room: Room | None = None,
    heard: Callable[[list[list[int]]], None] | None = None,
) -> tuple[list[Generation | None], GenerationCounts]:
    """Answers in the order of the requests, and what it took.

    Args:
        batch_size: answers decoded at once, 1 or more.
        num_workers: processes that prepare images and prompts; 0 for none, "auto" by the number of cores and requests.
        progress: told how many more requests are done, after each batch.
        set_aside: told of a request whose image cannot be read or whose prompt does not fit, and why; its answer is None.
            Without it such a request raises.
        finished: given the answers of each batch as soon as they are there, by place in `requests`.
        heard: given the token ids so far of every answer under way, after each token.
        room: what is known of how many fit; a batch on which memory runs out is halved and decoded again.
    """
    if batch_size < 1:
        raise ValueError(f"generation.batch_size={batch_size} must be at least 1")
    began = time.perf_counter()
    counts = GenerationCounts(rows=len(requests))
    results: list[Generation | None] = [None] * len(requests)

    def refuse(place: int, error: Exception) -> None:
        reason = refusal(error)
        if set_aside is None or reason is None:
            raise error
        set_aside(requests[place], reason)

    places, images = _digests(requests, refuse)
    wanted = [requests[place] for place in places]
    looks = looks_of(wanted, images)
    batches = plan_batches(wanted, images, batch_size)
    stream = _stream(model, encoder, wanted, batches, batch_size, num_workers)
    parts = iter(stream)
    done = len(requests) - len(wanted)
    room = room or Room("answers")

    def decoded(some: _Parts) -> tuple[list[int], list[list[int]], set[int]]:
        """Places in `wanted`, what was said, and which rows were no numbers."""
        rollout = Rollout(
            model,
            pad=encoder.pad_token_id,
            ends=encoder.end_token_ids,
            counts=counts,
            never_said=encoder.never_said,
            heard=heard,
        )
        read: list[int] = []
        for part in some:
            while part.refused:
                place, error = part.refused.pop(0)
                refuse(places[place], error)
            if part.places:
                rollout.read(part, [wanted[n].decoding for n in part.places], [looks[n] for n in part.places])
            read += part.places
        return read, rollout.answers() if read else [], rollout.broken

    try:
        for batch in batches:
            made: dict[int, Generation] = {}
            for read, said, broken in room.results(_Parts(islice(parts, len(batch))), len, _Parts.halves, decoded):
                for row, (place, ids) in enumerate(zip(read, said, strict=True)):
                    if row in broken:
                        refuse(places[place], not_finite(wanted[place]))
                        continue
                    said_now = Generation(tuple(ids), "", ids[-1] in encoder.end_token_ids)
                    answer = said_now.after(encoder.encode_start(wanted[place].answer_start), encoder)
                    results[places[place]] = made[places[place]] = answer
            if finished is not None:
                finished(made)
            if progress is not None:
                progress(sum(map(len, batch)) + done)
                done = 0
            if finished is not None:
                leave_if_asked("after a batch of answers")
    except RuntimeError as error:
        raise explained(error, stream.num_workers) from error
    counts.seconds, counts.waited = time.perf_counter() - began, stream.waited
    return results, counts


class _Parts:
    """Encoded parts of a batch, taken as they come; they can be gone through again, and cut in two."""

    def __init__(self, parts: Iterable[EncodedPart]) -> None:
        self._taken: list[EncodedPart] = []
        self._coming = iter(parts)

    def __iter__(self) -> Iterator[EncodedPart]:
        yield from self._taken
        for part in self._coming:
            self._taken.append(part)
            yield part

    def __len__(self) -> int:
        return sum(len(part.places) for part in self)

    def halves(self) -> tuple[_Parts, _Parts]:
        """Two of about as many rows each, in order."""
        parts = list(self)
        if len(parts) == 1:
            parts = list(parts[0].halves())
        middle = len(parts) // 2
        return _Parts(parts[:middle]), _Parts(parts[middle:])


def not_finite(request: GenerationRequest) -> NotFinite:
    """The sentence for an answer that is none."""
    return NotFinite(
        f"the model's logits are not finite numbers for the image {request.conversation.describe()!r} and the prompt "
        f"{request.prompt[:80]!r}; use model.dtype=bfloat16 or float32, and look at the weights"
    )


def _stream(
    model: VLM,
    encoder: PromptEncoder,
    requests: Sequence[GenerationRequest],
    batches: Sequence[Batch],
    batch_size: int,
    num_workers: int | str,
) -> PromptStream:
    parts = [part for batch in batches for part in batch]
    return PromptStream(
        encoder,
        requests,
        parts,
        num_workers=workers_for(num_workers, len(requests)),
        ahead=AHEAD * max((len(batch) for batch in batches), default=1),
        pin_memory=next(base_model(model).parameters()).device.type == "cuda",
    )


def _digests(
    requests: Sequence[GenerationRequest], refuse: Callable[[int, Exception], None]
) -> tuple[list[int], list[str]]:
    """Places of the requests whose images can be found, and what names these images. An image object is hashed once."""
    known: dict[tuple[int, ...], str] = {}
    places, images = [], []
    for place, request in enumerate(requests):
        shown = request.conversation
        objects = tuple(map(id, shown.images))
        try:
            if objects not in known:
                known[objects] = shown.image_digest()
        except BadImage as error:
            refuse(place, error)
            continue
        places.append(place)
        images.append(known[objects])
    return places, images


class Answerer(Protocol):
    """All that building pairs asks of a policy or of a server in its place."""

    encoder: PromptEncoder
    last_generation: GenerationCounts

    def spec(self, request: GenerationRequest) -> GenerationSpec:
        """Everything that determines the answer to `request`; its key finds a stored candidate again."""
        ...

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        batch_size: int = 128,
        progress: Callable[[int], None] | None = None,
        set_aside: SetAside | None = None,
        finished: Finished | None = None,
        num_workers: int | str | None = None,
    ) -> list[Generation | None]:
        """Answers in the order of the requests, see `Policy.generate`."""
        ...

    def gathered(self) -> AbstractContextManager[None]:
        """Inside: every process may ask as much or as little as it likes. All enter and leave together."""
        ...
