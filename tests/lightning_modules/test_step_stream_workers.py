"""Steps go on when a worker process is lost, and stop with a sentence when it is lost again and again at the same place."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.encoded_steps import epoch_of_steps
from datamodules.steps import StepPlan
from lightning_modules.step_stream import StepStream
from parallax.models.batch import PairBatch, ScoringBatch
from parallax.models.encoding.workers import WorkerDied, begin_worker
from tests.faults import Injected

MAIN = os.getpid()


class Steps(Dataset[Any]):
    """Numbers of steps; the process that prepares step 5 is killed, so often as `mark` allows."""

    def __init__(self, mark: Path, kills: int) -> None:
        self.mark, self.kills = mark, kills

    def __getitem__(self, step: int) -> Any:
        if step == 5 and os.getpid() != MAIN and len(list(self.mark.iterdir())) < self.kills:
            (self.mark / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor(step)


def stream(folder: Path, kills: int) -> list[int]:
    def loader(epoch: int, first: int) -> Any:
        return DataLoader(
            Steps(folder, kills), sampler=range(first, 8), batch_size=None, num_workers=1, worker_init_fn=begin_worker
        )

    return [int(sealed.step) for sealed in StepStream(loader, 8, start=2, stop=8)]  # type: ignore[call-overload]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_lost_worker_is_replaced_and_no_step_is_missed_or_made_twice(
    tmp_path: Path, caplog: Any, injected: Injected
) -> None:
    assert stream(tmp_path, kills=2) == [2, 3, 4, 5, 6, 7]
    assert caplog.text.count("new ones are started") == 2
    injected("worker of the training data killed", same=2, says="replaced; every step comes once, in order")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_workers_that_are_lost_again_and_again_stop_the_fit_with_advice(tmp_path: Path, injected: Injected) -> None:
    with pytest.raises(WorkerDied, match=r"lost 3 times at the same place.*trainer\.num_workers to fewer, or to 0"):
        stream(tmp_path, kills=99)
    injected(
        "worker of the training data killed", told=3, says="at the same place again and again: it stops with advice"
    )


def one_pair(places: Sequence[int]) -> PairBatch:
    ids, lengths = torch.arange(6).view(1, 2, 3), torch.full((1, 2), 3)
    vision = [{"pixel_values": torch.full((1, 3, 2, 2), float(places[0])), "image_sizes": torch.tensor([[2, 2]])}]
    scoring = ScoringBatch(torch.arange(4)[None], torch.tensor([4]), ids, lengths, vision)
    return PairBatch(scoring, torch.zeros(1, 2), [str(places[0])], lengths)


def test_a_step_of_many_images_needs_few_open_files() -> None:
    """128 pairs a step come from a worker through a limit that a descriptor for each of their tensors would break."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = len(os.listdir("/proc/self/fd")) + 120
    loader = epoch_of_steps(StepPlan(256, 128, 1), one_pair, num_workers=1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))
    try:
        steps = list(loader)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    batches = [batch for step in steps for batch in step.micro_batches]
    assert sorted(int(batch.pair_ids[0]) for batch in batches) == list(range(256))
    assert all(float(b.scoring.vision[0]["pixel_values"][0, 0, 0, 0]) == int(b.pair_ids[0]) for b in batches)
    assert all(torch.equal(b.scoring.response_ids, one_pair([0]).scoring.response_ids) for b in batches)
