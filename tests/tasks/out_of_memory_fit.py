"""A fit, then a generation, in a process whose memory ends in the middle: prints what it is told. Run by test_memory.py."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from parallax.models.generation.requests import GenerationRequest
from parallax.models.memory.advice import NotEnoughMemory
from parallax.records import Decoding, ViewSpec
from parallax.tasks.memory_forecast import explained_generation
from parallax.tasks.training import fit_stage
from tests import typed
from tests.tasks.tiny_fits import STAGE, TRAINER, policy_and_pairs


def leave(megabytes: int) -> None:
    """Let this process map only so much more."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + megabytes * 2**20, resource.RLIM_INFINITY))


class MemoryEnds(pl.Callback):
    """The forecast and the reference have room, the training step has not."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        leave(8)


def main(folder: Path) -> None:
    """Both in turn."""
    trainer = {**TRAINER, "batch_size": 128, "micro_batch_size": 128}
    policy, datamodule = policy_and_pairs(folder, trainer=trainer, repeat=16)
    datamodule.build_pairs(policy)
    sample = datamodule.source[0]
    requests = [GenerationRequest(sample.id, sample.image, "Describe the image.", ViewSpec(), Decoding(6))] * 400
    try:
        fit_stage(
            policy, datamodule, typed.stage(**{**STAGE, "trainer": trainer}), folder / "stage", callbacks=[MemoryEnds()]
        )
    except NotEnoughMemory as error:
        print("TRAINING", error)
    leave(4)
    try:
        with explained_generation(policy, batch_size=400, max_new_tokens=6):
            policy.generate(requests, batch_size=400)
    except NotEnoughMemory as error:
        print("GENERATION", error)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
