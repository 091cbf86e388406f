"""Generation on Lightning's predict loop: each process answers its share of the requests and writes what it made.

Which process makes which candidate does not matter: a candidate is named by all that determines it. A shard is whole or
absent, so a process that dies loses only the batch it was working on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from parallax.models.generation.requests import Generation, GenerationCounts, GenerationRequest
from parallax.records import Candidate, GenerationSpec
from parallax.records.candidate_store import CandidateStore
from parallax.records.leases import Leases, wait_a_little

if TYPE_CHECKING:
    from parallax.models.generation.generate import Answerer

WINDOW = 16  # batches that one process lays claim to at a time


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


def answer(
    policy: Answerer,
    planned: Sequence[PlannedGeneration],
    store: CandidateStore,
    *,
    batch_size: int = 128,
    num_workers: int | str | None = None,
    progress: Callable[[int], None] | None = None,
    set_aside: Callable[[GenerationRequest, str], None] | None = None,
) -> GenerationCounts:
    """Generate `planned` right here and store the candidates batch by batch, as soon as they exist.

    Other runs may be at work in the same store: what one of them is making is waited for, and made here only if it dies.

    Args:
        batch_size: answers decoded at once; each batch becomes one shard.
        num_workers: processes that prepare images; None takes the policy's number.
        progress: told how many more requests are done, after each batch.
        set_aside: told of requests that cannot be answered, and why; None raises.
    """
    counts, left, tried = GenerationCounts(), list(planned), 0
    with Leases(store.folder / "leases") as leases:
        while left:
            mine = list(islice((plan for plan in left if leases.take(plan.key)), WINDOW * batch_size))
            store.refresh()  # after taking: whoever gave a lease back has stored its answer before
            ready = [plan for plan in left if plan.key in store]
            mine = [plan for plan in mine if plan.key not in store]
            leases.give_back(plan.key for plan in ready)
            if ready and progress is not None:
                progress(len(ready))
            if mine:
                counts.add(_generate(policy, mine, store, leases, batch_size, num_workers, progress, set_aside))
            done = {plan.key for plan in (*ready, *mine)}
            left = [plan for plan in left if plan.key not in done]
            tried = 0 if done else tried + 1
            if left and not done:
                wait_a_little(tried)
    return counts


def _generate(
    policy: Answerer,
    planned: Sequence[PlannedGeneration],
    store: CandidateStore,
    leases: Leases,
    batch_size: int,
    num_workers: int | str | None,
    progress: Callable[[int], None] | None,
    set_aside: Callable[[GenerationRequest, str], None] | None,
) -> GenerationCounts:
    def keep(made: dict[int, Generation]) -> None:
        store.add([planned[place].candidate(generation) for place, generation in made.items()])
        leases.give_back(planned[place].key for place in made)

    policy.generate(
        [plan.request for plan in planned], batch_size=batch_size, num_workers=num_workers, progress=progress,
        set_aside=set_aside, finished=keep,
    )  # fmt: skip
    leases.give_back(plan.key for plan in planned)
    return policy.last_generation


class SealedShare:
    """Planned generations that precision plugins pass by: they would cast what is inside, and refuse frozen records."""

    def __init__(self, planned: Sequence[PlannedGeneration]) -> None:
        self.planned = planned


class PairBuilderModule(pl.LightningModule):
    """Makes the candidates of planned generations; `act` is called with them and does the work.

    It holds no network: the policy is on its device already, and Lightning would take it away again afterwards. The policy
    answers in its own precision, as it does where it answers alone, whatever `trainer.precision` is.
    """

    def __init__(self, act: Callable[[Sequence[PlannedGeneration]], None]) -> None:
        super().__init__()
        self.act = act

    def predict_step(self, batch: SealedShare, batch_idx: int) -> int:
        """Answers all of this process's share; returns how many requests that were."""
        before = torch.get_default_dtype()  # that of a trainer whose precision ends in -true
        torch.set_default_dtype(torch.float32)
        try:
            self.act(batch.planned)
        finally:
            torch.set_default_dtype(before)
        return len(batch.planned)

    def transfer_batch_to_device(self, batch: object, device: torch.device | str, dataloader_idx: int) -> Any:
        """Requests are plain values; the policy moves what it makes of them."""
        return batch


class Share(Dataset[list[PlannedGeneration]]):
    """What one process answers, as one item: every `world_size`-th list of `size` planned generations."""

    def __init__(self, planned: Sequence[PlannedGeneration], size: int, rank: int = 0, world_size: int = 1) -> None:
        starts = range(rank * size, len(planned), world_size * size)
        self.planned = [plan for start in starts for plan in planned[start : start + size]]

    def __len__(self) -> int:
        return int(bool(self.planned))

    def __getitem__(self, index: int) -> list[PlannedGeneration]:
        return self.planned


def generate_candidates(
    policy: Answerer,
    planned: Sequence[PlannedGeneration],
    store: CandidateStore,
    trainer: pl.Trainer,
    *,
    batch_size: int = 128,
    num_workers: int | str | None = None,
    progress: Callable[[int], None] | None = None,
    set_aside: Callable[[GenerationRequest, str], None] | None = None,
) -> GenerationCounts:
    """`answer` on Lightning's predict loop, spread over its processes; returns when every process has finished.

    Args:
        planned: what is not in the store yet; the same list, in the same order, on every process.

    Returns what this process did. `progress` and `set_aside` are told about this process's share too.
    """
    done = GenerationCounts()

    def act(share: Sequence[PlannedGeneration]) -> None:
        done.add(
            answer(
                policy, share, store, batch_size=batch_size, num_workers=num_workers, progress=progress, set_aside=set_aside
            )
        )  # fmt: skip

    share = Share(planned, batch_size, trainer.global_rank, trainer.world_size)
    module = PairBuilderModule(act)
    module.allow_zero_length_dataloader_with_multiple_devices = True
    loader: DataLoader[Any] = DataLoader(share, batch_size=None, collate_fn=SealedShare)
    try:
        with policy.gathered():
            trainer.predict(module, dataloaders=loader, return_predictions=False)
    finally:
        del module.act  # a trainer keeps its last module, which would keep the policy
    trainer.strategy.barrier("candidates")
    store.refresh()
    return done
