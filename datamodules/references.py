"""Reference log-probabilities before a fit: looked up by (reference, pair), computed for the pairs that have none yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from datamodules.encoded_steps import PairBatches, mapped
from datamodules.further_columns import FurtherColumns
from parallax.models.batch import ScoringBatch
from parallax.preference.looks import Look
from parallax.records import PreferencePair, fingerprint
from parallax.records.interruption import leave_if_asked, stop_requested
from parallax.records.reference_table import ReferenceTable

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from parallax.models.policy import Policy

SCORING = 2  # version of how a pair is scored; raised when its numbers change
MakeScoring = Callable[[Sequence[int]], ScoringBatch]
SHARD = 64  # batches whose numbers are written together


def reference_name(policy: Policy, trainer: pl.Trainer | None = None) -> str:
    """Names all that decides a reference log-prob but the pair: weights, precisions, processor, template, scorer."""
    encoder = policy.encoder
    return fingerprint(
        {
            "weights": policy.reference_fingerprint(),
            "precision": policy.precision,
            "compute": str(trainer.precision) if trainer is not None else "32-true",  # autocast, as in training
            "processor": encoder.processor_fingerprint,
            "template": encoder.chat.fingerprint(),
            "scorer": policy.scorer,
            "scoring": SCORING,
        }
    )


def fill_references(
    policy: Policy,
    pairs: Sequence[PreferencePair],
    ids: Sequence[str],
    table: ReferenceTable,
    *,
    passes: Callable[[Sequence[int]], list[list[int]]],
    further: FurtherColumns | None = None,
    num_workers: int = 0,
    trainer: pl.Trainer | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[list[float]], int]:
    """Reference log-probs of all pairs, in order, and of how many of them some had to be computed.

    A pair's own answers and each group of its looks have a row of their own in the table, so that objectives share what they have
    in common. `passes` puts places of pairs into forward passes. With several processes, each computes its share and all read
    the whole table afterwards.
    """
    import torch

    further = further or FurtherColumns()
    name = reference_name(policy, trainer)
    make = PairBatches(pairs, ids, policy.encoder, features=policy.features, further=further)
    parts: list[tuple[list[str], MakeScoring]] = [
        ([further.name_of(pairs, ids, place, group) for place in range(len(ids))], partial(_own_or_look, make, group))
        for group in (None, *further.groups)
    ]
    rank, world = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
    computed: set[int] = set()
    for names, scoring in parts:
        known = table.get(names, name)
        place_of = {row: place for place, row in enumerate(names)}
        missing = [place for row, place in place_of.items() if row not in known]
        if trainer is not None and world > 1:
            missing = trainer.strategy.broadcast(missing)
        if not missing:
            continue
        computed |= set(missing)
        batches = passes(missing)[rank::world]
        rows: dict[str, list[float]] = {}
        with policy.gathered(), torch.inference_mode(), policy.reference():
            for count, (places, batch) in enumerate(
                zip(batches, mapped(scoring, batches, num_workers), strict=True), start=1
            ):
                totals = policy.score(batch.to(policy.device)).total
                rows |= dict(zip([names[place] for place in places], totals.float().cpu().tolist(), strict=True))
                if progress is not None:
                    progress(len(batch))
                if count % SHARD == 0 or stop_requested():
                    table.add(rows, name)
                    rows = {}
                    leave_if_asked("while the reference scores the pairs")
        table.add(rows, name)
        if trainer is not None and world > 1:
            trainer.strategy.barrier("references")
    found = [(names, table.get(names, name)) for names, _ in parts]
    return [[v for names, rows in found for v in rows[names[place]]] for place in range(len(ids))], len(computed)


def _own_or_look(make: PairBatches, group: tuple[Look, ...] | None, places: Sequence[int]) -> ScoringBatch:
    return make.own(places) if group is None else make.look(places, group)
