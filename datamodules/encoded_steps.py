"""Optimiser steps as tensors: pairs are loaded, encoded and collated here, in data-loader workers if there are any."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.steps import StepPlan
from parallax.models.batch import EncodedPrompt, PairBatch, StepBatch
from parallax.models.encoding.feature_cache import ReadyFeatures
from parallax.models.encoding.prompt_encoder import PromptEncoder
from parallax.models.encoding.workers import begin_worker, watched, with_new_workers
from parallax.records import PreferencePair, ViewSpec, fingerprint, naming

STALLED = 600.0  # seconds after which a step that does not come is given up
MakeBatch = Callable[[Sequence[int]], PairBatch]  # places in a list -> one micro-batch


def encode_pair(encoder: PromptEncoder, pair: PreferencePair) -> tuple[EncodedPrompt, list[Tensor]]:
    """The prompt with its clean image, and all responses, chosen first. Raises `BadImage` or `PromptTooLong`."""
    with naming(pair.image):
        prompt = encoder.encode_prompt(pair.image.load(), pair.prompt)
    return prompt, [encoder.encode_response(response) for response in pair.responses]


class PairBatches:
    """Makes micro-batches of preference pairs. Picklable.

    Args:
        pairs: all with the same number of responses.
        ids: their ids.
        encoder: of the policy.
        reference: per pair its 1 + K reference log-probs, or None when the reference is scored live.
        features: of the policy; images whose features are ready there are not loaded again.
        noise: per pair the view under which its image is shown a second time, or None where the objective needs none.
    """

    def __init__(
        self,
        pairs: Sequence[PreferencePair],
        ids: Sequence[str],
        encoder: PromptEncoder,
        reference: Sequence[Sequence[float]] | None = None,
        features: ReadyFeatures | None = None,
        noise: Sequence[ViewSpec] | None = None,
    ) -> None:
        self.pairs, self.ids, self.encoder, self.features, self.noise = pairs, ids, encoder, features, noise
        self._processor = ""
        self.reference = torch.tensor(reference, dtype=torch.float32) if reference is not None else None  # (N, 1 + K)

    def __call__(self, places: Sequence[int]) -> PairBatch:
        scoring = self.encoder.collate([self._encoded(place) for place in places])
        if self.features is not None:
            scoring.image_names = [self._image_name(place) for place in places]
        reference = self.reference[list(places)] if self.reference is not None else None
        assert reference is None or reference.shape == scoring.response_lengths.shape, "one log-prob per response"
        return PairBatch(
            scoring, reference, [self.ids[place] for place in places], scoring.response_lengths, self._noisy(places)
        )

    def _noisy(self, places: Sequence[int]) -> list[dict[str, Tensor]] | None:
        if self.noise is None:
            return None
        shown = [(self.pairs[place], self.noise[place]) for place in places]
        return [self.encoder.encode_prompt(pair.image.load(), pair.prompt, view).vision for pair, view in shown]

    def _encoded(self, place: int) -> tuple[EncodedPrompt, list[Tensor]]:
        pair, name = self.pairs[place], self._image_name(place) if self.features is not None else ""
        known = self.features.prompt(name, pair.prompt) if self.features is not None else None
        if known is not None:
            return known, [self.encoder.encode_response(response) for response in pair.responses]
        prompt, responses = encode_pair(self.encoder, pair)
        if self.features is not None:
            self.features.remember(name, pair.prompt, prompt)
        return prompt, responses

    def _image_name(self, place: int) -> str:
        """Names what the tower sees: the image's bytes and the processor's settings."""
        self._processor = self._processor or self.encoder.processor_fingerprint()
        return fingerprint([self.pairs[place].image.digest(), self._processor])


class Steps(Dataset[StepBatch]):
    """`(epoch, step)` → `StepBatch`."""

    def __init__(self, plan: StepPlan, make: MakeBatch) -> None:
        self.plan, self.make = plan, make

    def __getitem__(self, where: tuple[int, int]) -> StepBatch:  # type: ignore[override]
        step = self.plan.step(*where)
        batches = [self.make(places) for places in step.micro_batches]
        for batch in batches[step.counted :]:
            batch.weight = 0.0
        return StepBatch(batches, step.pairs_in_step)


def epoch_of_steps(
    plan: StepPlan,
    make: MakeBatch,
    *,
    epoch: int = 0,
    first_step: int = 0,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[StepBatch]:
    """The steps of one epoch from `first_step` on. The number of workers changes nothing but speed."""
    where = [(epoch, step) for step in range(first_step, plan.steps_per_epoch)]
    return _loader(Steps(plan, make), where, num_workers, pin_memory)


class _Made(Dataset[Any]):
    def __init__(self, make: Callable[[Any], Any], arguments: Sequence[Any]) -> None:
        self.make, self.arguments = make, arguments

    def __getitem__(self, place: int) -> Any:
        return self.make(self.arguments[place])


def mapped(make: Callable[[Any], Any], arguments: Sequence[Any], num_workers: int = 0) -> Iterator[Any]:
    """`map(make, arguments)` in worker processes; a worker that is lost is replaced, and the work it had in hand done again."""
    done = 0

    def rest() -> Iterator[Any]:
        return watched(_loader(_Made(make, arguments), range(done, len(arguments)), num_workers, False))

    for item in with_new_workers(rest):
        done += 1
        yield item


def _loader(dataset: Dataset[Any], sampler: Any, num_workers: int, pin_memory: bool) -> DataLoader[Any]:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers complain about worker processes otherwise
    return DataLoader(
        dataset, batch_size=None, sampler=sampler, num_workers=num_workers, collate_fn=_as_it_is, pin_memory=pin_memory,
        worker_init_fn=begin_worker if num_workers else None, timeout=STALLED if num_workers else 0,
    )  # fmt: skip


def _as_it_is(item: Any) -> Any:
    return item
