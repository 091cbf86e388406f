"""Generation on Lightning's predict loop: each process answers its share of the requests and writes what it made.

Which process makes which candidate does not matter: a candidate is named by all that determines it. A shard is whole or
absent, so a process that dies loses only the batch it was working on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import BasePredictionWriter
from torch.utils.data import DataLoader, Dataset

from parallax.models.requests import Generation, GenerationRequest
from parallax.records import Candidate, GenerationSpec
from parallax.records.candidate_store import CandidateStore


@dataclass(frozen=True)
class PlannedGeneration:
    """A request with what it is for, and the specification that names its answer."""

    role: str  # "chosen", "rejected", "sample", …
    index: int  # 0-based among the candidates of that role
    request: GenerationRequest
    spec: GenerationSpec

    @cached_property
    def key(self) -> str:
        return self.spec.key()

    def candidate(self, generation: Generation) -> Candidate:
        """The candidate this request became."""
        return Candidate(
            key=self.key,
            sample_id=self.request.sample_id,
            role=self.role,
            index=self.index,
            token_ids=tuple(generation.token_ids),
            text=generation.text,
            finished=generation.finished,
            spec=self.spec,
        )


class PairBuilderModule(pl.LightningModule):
    """Predicts candidates for lists of planned generations.

    Args:
        policy: who answers.
        batch_size: sequences generated at once.
        set_aside: told of a request that cannot be answered (its image cannot be read, its prompt is too long) and why;
            None raises.
    """

    def __init__(
        self, policy: Any, batch_size: int = 128, set_aside: Callable[[GenerationRequest, str], None] | None = None
    ) -> None:
        super().__init__()
        self.policy, self.batch_size, self.set_aside = policy, batch_size, set_aside
        self.network = policy.model

    def predict_step(self, batch: Sequence[PlannedGeneration], batch_idx: int) -> list[Candidate]:
        """Candidates in the order of `batch`, without those that were set aside."""
        requests = [planned.request for planned in batch]
        generations = self.policy.generate(requests, batch_size=self.batch_size, set_aside=self.set_aside)
        return [planned.candidate(made) for planned, made in zip(batch, generations, strict=True) if made is not None]

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Requests are plain values; the policy moves what it makes of them."""
        return batch


class CandidateWriter(BasePredictionWriter):
    """Writes the candidates of every predict batch as one shard, as soon as they exist."""

    def __init__(self, store: CandidateStore) -> None:
        super().__init__(write_interval="batch")
        self.store = store

    def write_on_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, prediction: Sequence[Candidate], *_: Any
    ) -> None:
        """One shard, under a name of its own; processes never write to the same file."""
        self.store.add(list(prediction))


class Chunks(Dataset[list[PlannedGeneration]]):
    """Planned generations in lists of `size`; every `world_size`-th list belongs to a process."""

    def __init__(self, planned: Sequence[PlannedGeneration], size: int, rank: int = 0, world_size: int = 1) -> None:
        starts = range(0, len(planned), size)
        self.chunks = [list(planned[start : start + size]) for start in starts][rank::world_size]

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> list[PlannedGeneration]:
        return self.chunks[index]


def generate_candidates(
    policy: Any,
    planned: Sequence[PlannedGeneration],
    store: CandidateStore,
    trainer: pl.Trainer,
    *,
    batch_size: int = 128,
    progress: Callable[[int], None] | None = None,
    set_aside: Callable[[GenerationRequest, str], None] | None = None,
) -> None:
    """Generate `planned` with Lightning's predict loop and store the candidates; returns when every process has finished.

    Args:
        planned: what is not in the store yet; the same list, in the same order, on every process.
        progress: called with the number of answers made by this process, after each batch.
        set_aside: told of requests of this process that cannot be answered, and why; None raises.
    """
    # the trainer may be used for fitting before and after, so the writer is added for this call only
    writer = CandidateWriter(store)
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    added = [writer, _Count(progress)] if progress is not None else [writer]
    callbacks.extend(added)
    try:
        chunks = Chunks(planned, batch_size, trainer.global_rank, trainer.world_size)
        loader: DataLoader[Any] = DataLoader(chunks, batch_size=None, collate_fn=list)
        module = PairBuilderModule(policy, batch_size, set_aside)
        module.allow_zero_length_dataloader_with_multiple_devices = True
        trainer.predict(module, dataloaders=loader, return_predictions=False)
        trainer.strategy.barrier("candidates")
    finally:
        for callback in added:
            callbacks.remove(callback)
    store.refresh()


class _Count(pl.Callback):
    def __init__(self, progress: Any) -> None:
        self.progress = progress

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.progress(len(batch))
