"""Images opened, corrupted, processed and put into prompts while the model decodes what came before.

Worker processes do it where there are any, in the order in which the model will ask; else it is done when the model asks.
Nothing depends on how many workers there are. The time the model waits for the next part is measured.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from parallax.models.devices import share_of_cores
from parallax.models.encoding.chat import CannotWrite
from parallax.models.encoding.control_tokens import UnusableText
from parallax.models.encoding.prompt_encoder import PromptEncoder, PromptTooLong
from parallax.models.encoding.workers import WorkerDied, begin_worker, watched, worker_lost
from parallax.models.generation.image_trial import dangerous_images
from parallax.models.generation.requests import BadAnswer, GenerationRequest, NotFinite, OtherPrompt
from parallax.models.packed_tensors import Packed
from parallax.records import BadImage, RefusedImage
from parallax.records.images import DECODE_SECONDS

log = logging.getLogger(__name__)

FEW = 128  # requests for which starting a worker costs more than it saves

STALLED = 120.0  # seconds after which a part that does not come is given up


@dataclass
class EncodedPart:
    """Prompts of some requests, ready for the model. `tensors` holds a dict per request of `places`, see `prompts`."""

    places: list[int]  # of the requests that can be answered
    lengths: list[int]  # prompt tokens of each, image tokens included
    tensors: Packed
    refused: list[tuple[int, Exception]]  # places that cannot be answered, and why

    def prompts(self) -> list[dict[str, Any]]:
        """`input_ids` (P,), `token_inputs` and `vision` of each request of `places`."""
        values: list[dict[str, Any]] = self.tensors.values()
        return values

    def pin_memory(self) -> EncodedPart:
        """With the tensors in page-locked memory."""
        return EncodedPart(self.places, self.lengths, self.tensors.pin_memory(), self.refused)

    def halves(self) -> tuple[EncodedPart, EncodedPart]:
        """The first half of its rows, and the others."""
        prompts, middle = self.prompts(), len(self.places) // 2
        first = EncodedPart(self.places[:middle], self.lengths[:middle], Packed.of(prompts[:middle]), self.refused)
        return first, EncodedPart(self.places[middle:], self.lengths[middle:], Packed.of(prompts[middle:]), [])


class PromptStream:
    """Encoded parts, one after the other.

    Args:
        parts: places in `requests`.
        num_workers: processes that prepare parts ahead; 0 prepares each when it is asked for.
        ahead: parts that may lie ready and unread.
        pin_memory: for a GPU.

    Attributes:
        waited: seconds spent waiting for the next part so far.
    """

    def __init__(
        self,
        encoder: PromptEncoder,
        requests: Sequence[GenerationRequest],
        parts: Sequence[Sequence[int]],
        *,
        num_workers: int,
        ahead: int,
        pin_memory: bool,
    ) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers complain about worker processes otherwise
        self.waited = 0.0
        self.num_workers = min(num_workers, len(parts))
        self._parts = _Parts(encoder, requests, parts)
        self._pin_memory = pin_memory
        options: dict[str, Any] = {}
        if self.num_workers:
            # a fork starts in milliseconds, a new interpreter has to import torch
            method = "fork" if sys.platform == "linux" else None
            options = {
                "timeout": STALLED,
                "multiprocessing_context": multiprocessing.get_context(method),
                "prefetch_factor": max(2, -(-ahead // self.num_workers)),
                "worker_init_fn": begin_worker,
            }
        self._options = options

    def __iter__(self) -> Iterator[EncodedPart]:
        began, number, careful = time.perf_counter(), 0, 0
        while number < len(self._parts):
            try:
                for part in watched(self._loader(number, self.num_workers if not careful else 0)):
                    number += 1
                    self.waited += time.perf_counter() - began
                    yield part
                    began = time.perf_counter()
                    if careful and number == careful:
                        careful = 0  # beyond what the lost workers had in hand
                        break
            except RuntimeError as error:
                if not worker_lost(error) or careful:
                    raise
                careful = self._sort_out(number, error)

    def _sort_out(self, number: int, error: RuntimeError) -> int:
        """Find the images on which workers are lost among the parts they had in hand; returns where workers may go on.

        Raises the error when no image is to blame: then it is memory, and going on would only lose more workers.
        """
        window = self.num_workers * int(self._options["prefetch_factor"]) + 1
        end = min(number + window, len(self._parts))
        log.warning(
            "%s; looking for the image it happened on", str(error).strip().splitlines()[0].rstrip(".")
        )  # the answers made so far are kept
        before = len(self._parts.banned)
        for part in range(number, end):
            self._parts.try_images(part)
        if len(self._parts.banned) == before:
            raise error
        return end

    def _loader(self, first: int, num_workers: int) -> DataLoader[EncodedPart]:
        return DataLoader(
            self._parts, batch_size=None, sampler=range(first, len(self._parts)), collate_fn=_as_it_is,
            num_workers=num_workers, pin_memory=self._pin_memory, generator=torch.Generator(),
            **(self._options if num_workers else {}),
        )  # fmt: skip


def workers_for(wanted: int | str, requests: int) -> int:
    """How many worker processes: `wanted`; for "auto" a quarter of the cores this process may use, none for a few requests."""
    if wanted != "auto":
        return int(wanted)
    return 0 if requests < FEW else share_of_cores()


def explained(error: RuntimeError, num_workers: int) -> RuntimeError:
    """An error of the data loader in our words where a worker has died; any other error as it is."""
    if not worker_lost(error):
        return error
    return WorkerDied(
        f"a process that prepares images for generation has died ({str(error).strip().splitlines()[0]}). Most often memory or "
        f"shared memory (/dev/shm) ran out: there were {num_workers} such processes, set generation.num_workers to fewer, or "
        "to 0 to prepare images in the main process. Answers made so far are kept"
    )


class _Parts(Dataset[EncodedPart]):
    def __init__(
        self, encoder: PromptEncoder, requests: Sequence[GenerationRequest], parts: Sequence[Sequence[int]]
    ) -> None:
        self.encoder, self.requests, self.parts = encoder, requests, parts
        self.banned: dict[int, BadImage] = {}  # places in `requests` whose image is not to be opened

    def try_images(self, number: int) -> None:
        """Ban those images of a part that end or hold up the process which opens them."""
        runs = list(_runs(self.requests, self.parts[number]))
        shown = [
            (number, image) for number, run in enumerate(runs) for image in self.requests[run[0]].conversation.images
        ]
        found = dangerous_images([image for _, image in shown], DECODE_SECONDS * 1.5)
        for place, bad in found.items():
            self.banned |= dict.fromkeys(runs[shown[place][0]], bad)

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> EncodedPart:
        places, lengths, prompts, refused = [], [], [], []
        for places_of_image in _runs(self.requests, self.parts[number]):
            for place, prompt in zip(places_of_image, self._encode(places_of_image), strict=True):
                if isinstance(prompt, Exception):
                    refused.append((place, prompt))
                    continue
                places.append(place)
                lengths.append(len(prompt["input_ids"]))
                prompts.append(prompt)
        return EncodedPart(places, lengths, Packed.of(prompts), refused)

    def _encode(self, places: Sequence[int]) -> list[dict[str, Any] | Exception]:
        """Prompts of some requests about one image, or why they cannot be."""
        if places[0] in self.banned:
            return [self.banned[places[0]]] * len(places)
        try:
            images = [image.load() for image in self.requests[places[0]].conversation.images]
        except Exception as error:  # told where the answer was asked for, whichever process we are in
            return [error] * len(places)
        asked = [(self.requests[place].conversation, self.requests[place].view) for place in places]
        encoded: list[dict[str, Any] | Exception] = []
        for place, prompt in zip(places, self.encoder.encode_prompts(images, asked), strict=True):
            if isinstance(prompt, Exception):
                named = f"image {self.requests[places[0]].conversation.describe()!r} {prompt}"
                encoded.append(BadImage(named) if isinstance(prompt, RefusedImage) else prompt)
                continue
            prompt = prompt.followed_by(self.encoder.encode_start(self.requests[place].answer_start))
            new, room = self.requests[place].decoding.max_new_tokens, self.encoder.max_context - len(prompt.input_ids)
            if new > room:
                encoded.append(
                    PromptTooLong(
                        f"{new} new tokens after a prompt of {len(prompt.input_ids)} do not fit the context of "
                        f"{self.encoder.max_context}; lower generation.max_new_tokens or shorten the prompt"
                    )
                )
                continue
            encoded.append(
                {"input_ids": prompt.input_ids, "token_inputs": prompt.token_inputs, "vision": prompt.vision}
            )
        return encoded


def refusal(error: Exception) -> str | None:
    """Why a request is set aside, or None for an error that is a mistake in the program or the configuration."""
    known = BadImage | PromptTooLong | NotFinite | BadAnswer | OtherPrompt | UnusableText
    return str(error) if isinstance(error, known | CannotWrite) else None


def _runs(requests: Sequence[GenerationRequest], places: Sequence[int]) -> Iterator[list[int]]:
    """Places that follow one another and are about the same images."""
    run: list[int] = []
    for place in places:
        if run and requests[place].conversation.images != requests[run[-1]].conversation.images:
            yield run
            run = []
        run.append(place)
    if run:
        yield run


def _as_it_is(item: object) -> Any:
    return item


def pad_left(rows: Sequence[Tensor], value: int, width: int) -> Tensor:
    """Rows of different length as one matrix, filled up on the left. Shape: (len(rows), width)."""
    result = rows[0].new_full((len(rows), width), value)
    for index, row in enumerate(rows):
        result[index, width - len(row) :] = row
    return result
