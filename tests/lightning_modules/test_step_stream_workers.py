"""Steps go on when a worker process is lost, and stop with a sentence when it is lost again and again at the same place."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_modules.step_stream import StepStream
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
