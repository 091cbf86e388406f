"""Reference log-probabilities before a fit: looked up by (reference, pair), computed for the pairs that have none yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from datamodules.encoded_steps import PairBatches, mapped
from parallax.records import PreferencePair, fingerprint
from parallax.records.interruption import leave_if_asked, stop_requested
from parallax.records.reference_table import ReferenceTable

SCORING = 2  # version of how a pair is scored; raised when its numbers change
SHARD = 64  # batches whose numbers are written together


def reference_name(policy: Any, trainer: Any = None) -> str:
    """Names all that decides a reference log-prob but the pair: weights, precisions, processor, template, scorer."""
    encoder = policy.encoder
    return fingerprint(
        {
            "weights": policy.reference_fingerprint(),
            "precision": policy.precision,
            "compute": str(trainer.precision) if trainer is not None else "32-true",  # autocast, as in training
            "processor": encoder.processor_fingerprint(),
            "template": encoder.chat.fingerprint(),
            "scorer": policy.scorer,
            "scoring": SCORING,
        }
    )


def fill_references(
    policy: Any,
    pairs: Sequence[PreferencePair],
    ids: Sequence[str],
    table: ReferenceTable,
    *,
    passes: Callable[[Sequence[int]], list[list[int]]],
    num_workers: int = 0,
    trainer: Any = None,
    progress: Any = None,
) -> tuple[list[list[float]], int]:
    """Reference log-probs of all pairs, in order, and how many of them had to be computed.

    `passes` puts places of pairs into forward passes. With several processes, each computes its share and all read the whole
    table afterwards.
    """
    import torch

    name = reference_name(policy, trainer)
    known = table.get(ids, name)
    place_of = {pair_id: place for place, pair_id in enumerate(ids)}
    missing = [place for pair_id, place in place_of.items() if pair_id not in known]
    rank, world = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
    if world > 1:
        missing = trainer.strategy.broadcast(missing)
    if not missing:
        return [known[pair_id] for pair_id in ids], 0
    batches = passes(missing)[rank::world]
    rows: dict[str, list[float]] = {}
    with policy.gathered(), torch.inference_mode(), policy.reference():
        make = PairBatches(pairs, ids, policy.encoder, features=policy.features)
        for count, batch in enumerate(mapped(make, batches, num_workers), start=1):
            totals = policy.score(batch.scoring.to(policy.device)).total
            rows |= dict(zip(batch.pair_ids, totals.float().cpu().tolist(), strict=True))
            if progress is not None:
                progress(len(batch))
            if count % SHARD == 0 or stop_requested():
                table.add(rows, name)
                rows = {}
                leave_if_asked("while the reference scores the pairs")
    table.add(rows, name)
    if world > 1:
        trainer.strategy.barrier("references")
    known = table.get(ids, name)
    return [known[pair_id] for pair_id in ids], len(missing)
