"""Optimiser steps as tensors: pairs are loaded, encoded and collated here, in data-loader workers if there are any."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.further_columns import FurtherColumns
from datamodules.steps import StepPlan
from parallax.models.batch import EncodedPrompt, PairBatch, ScoringBatch, StepBatch
from parallax.models.encoding.image_features import ReadyFeatures
from parallax.models.encoding.prompt_encoder import IDENTITY, PromptEncoder
from parallax.models.encoding.workers import begin_worker, watched, with_new_workers
from parallax.preference.looks import Look
from parallax.records import Conversation, PreferencePair, Response, ViewSpec, fingerprint

STALLED = 600.0  # seconds after which a step that does not come is given up
MakeBatch = Callable[[Sequence[int]], PairBatch]  # places in a list -> one micro-batch
_Item = tuple[Conversation, ViewSpec, tuple[Response, ...]]  # what is shown and asked, how it is seen, the answers


def encode_pair(encoder: PromptEncoder, pair: PreferencePair) -> tuple[EncodedPrompt, list[Tensor]]:
    """The prompt with its clean images, and all responses, chosen first. Raises `BadImage` or `PromptTooLong`."""
    prompt = encoder.encode_conversation(pair.conversation)
    return prompt, [encoder.encode_response(response) for response in pair.responses]


class PairBatches:
    """Makes micro-batches of preference pairs. Picklable.

    Args:
        pairs: all with the same number of responses.
        ids: their ids.
        encoder: of the policy.
        reference: per pair its 1 + K + L reference log-probs, or None when the reference is scored live.
        features: of the policy; images whose features are ready there are not loaded again.
        further: looks and token weights that the objective asks for.
    """

    def __init__(
        self,
        pairs: Sequence[PreferencePair],
        ids: Sequence[str],
        encoder: PromptEncoder,
        reference: Sequence[Sequence[float]] | None = None,
        features: ReadyFeatures | None = None,
        further: FurtherColumns | None = None,
    ) -> None:
        self.pairs, self.ids, self.encoder, self.features = pairs, ids, encoder, features
        self.further = further or FurtherColumns()
        self.reference = (
            torch.tensor(reference, dtype=torch.float32) if reference is not None else None
        )  # (N, 1 + K + L)

    def __call__(self, places: Sequence[int]) -> PairBatch:
        scoring = self.own(places)
        reference = self.reference[list(places)] if self.reference is not None else None
        columns = scoring.responses_per_prompt + len(self.further.looks)
        assert reference is None or reference.shape == (len(places), columns), "one log-prob per response and look"
        looks = [self.look(places, group) for group in self.further.groups]
        ids, kinds = [self.ids[place] for place in places], [self.pairs[place].kind for place in places]
        return PairBatch(scoring, reference, ids, scoring.response_lengths, looks, kinds)

    def own(self, places: Sequence[int]) -> ScoringBatch:
        """The pairs' own answers beside their own images. Shapes: (B, 1 + K, …)."""
        pairs = [self.pairs[place] for place in places]
        shown = [(pair.conversation, IDENTITY, pair.responses) for pair in pairs]
        weights = [self.further.weights(self.encoder, pair) for pair in pairs]
        return self._collated(shown, weights)

    def look(self, places: Sequence[int], group: tuple[Look, ...]) -> ScoringBatch:
        """The answers of a group of looks beside its picture. Shapes: (B, looks of the group, …)."""
        shown = [self.further.shown(self.pairs, place, group) for place in places]
        items = [(look.conversation, look.view, look.responses) for look in shown]
        weights: list[list[list[float]] | None] = []
        for place, look in zip(places, shown, strict=True):
            own = self.further.weights(self.encoder, self.pairs[place])
            weights.append(None if own is None else [own[number or 0] for number in look.weighted_as])
        return self._collated(items, weights)

    def _collated(self, items: Sequence[_Item], weights: Sequence[list[list[float]] | None]) -> ScoringBatch:
        names = [self._image_name(asked, view) for asked, view, _ in items] if self.features is not None else None
        encoded = [self._encoded(item, names[row] if names else "") for row, item in enumerate(items)]
        batch = self.encoder.collate(encoded)
        batch.image_names = names
        if weights and weights[0] is not None:
            batch.response_weights = torch.zeros(batch.response_ids.shape, dtype=torch.float32)
            for row, sides in enumerate(weights):
                for side, values in enumerate(sides or []):
                    batch.response_weights[row, side, : len(values)] = torch.tensor(values)
        return batch

    def _encoded(self, item: _Item, name: str) -> tuple[EncodedPrompt, list[Tensor]]:
        asked, view, responses = item
        answers = [self.encoder.encode_response(response) for response in responses]
        known = self.features.prompt(name, asked.written()) if self.features is not None else None
        if known is not None:
            return known, answers
        prompt = self.encoder.encode_conversation(asked, view)
        if self.features is not None:
            self.features.remember(name, asked.written(), prompt)
        return prompt, answers

    def _image_name(self, asked: Conversation, view: ViewSpec) -> str:
        """Names what the tower sees: the images' bytes, the processor's settings, and the view if there is one."""
        seen = [] if view == IDENTITY else [[view.name, dict(view.params), view.seed]]
        return fingerprint([asked.image_digest(), self.encoder.processor_fingerprint, *seen])


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


def _loader(dataset: Dataset[Any], sampler: Sequence[Any], num_workers: int, pin_memory: bool) -> DataLoader[Any]:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers complain about worker processes otherwise
    return DataLoader(
        dataset, batch_size=None, sampler=sampler, num_workers=num_workers, collate_fn=_as_it_is, pin_memory=pin_memory,
        worker_init_fn=begin_worker if num_workers else None, timeout=STALLED if num_workers else 0,
    )  # fmt: skip


def _as_it_is(item: object) -> Any:
    return item
