"""The data of a supervised stage: dialogues with their answers, served as optimiser steps.

A dialogue is a prompt (everything up to the first answer) with one "response" (all that follows) whose mask marks the
assistant's tokens. Samples without an answer are set aside.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from datamodules.build import reason_of
from datamodules.encoded_steps import epoch_of_steps, mapped
from datamodules.report import BuildReport
from datamodules.steps import StepPlan
from parallax.models.batch import EncodedDialogue, PairBatch, StepBatch
from parallax.models.encoder import Encoder
from parallax.records import BadImage, Sample
from parallax.records.skipped import SetAside, SkippedLog

log = logging.getLogger(__name__)


def encode_sample(encoder: Encoder, sample: Sample) -> EncodedDialogue:
    """All turns that have an answer, up to the first that has none. Raises `BadImage`, `PromptTooLong`, or ValueError."""
    turns = []
    for turn in sample.turns:
        if turn.answer is None or not turn.answer.strip():
            break
        turns.append((turn.question, turn.answer))
    if not turns:
        raise ValueError(f"sample {sample.id!r} has no answer to learn")
    return encoder.encode_dialogue(sample.image.load(), turns)


class DialogueBatches:
    """Makes micro-batches of dialogues. Picklable."""

    def __init__(self, samples: Sequence[Sample], encoder: Encoder) -> None:
        self.samples, self.encoder = samples, encoder

    def __call__(self, places: Sequence[int]) -> PairBatch:
        samples = [self.samples[place] for place in places]
        scoring = self.encoder.collate_dialogues([encode_sample(self.encoder, sample) for sample in samples])
        return PairBatch(scoring, None, [sample.id for sample in samples], scoring.counted().sum(-1))

    def fault(self, place: int) -> tuple[str, str] | None:
        """Why a sample cannot be used: (reason, sentence) or None."""
        try:
            self([place])
        except BadImage as bad:
            return "bad_image", str(bad)
        except ValueError as error:
            return ("no_answer" if "no answer" in str(error) else reason_of(str(error))), str(error)
        return None


class SupervisedDataModule(pl.LightningDataModule):
    """Dialogues of one stage.

    Args:
        source: samples whose turns have answers.
        trainer: of the `trainer` group: batch_size (dialogues per step over all processes), micro_batch_size, num_workers.
        repeat: how often each sample is listed per epoch.
        max_skipped_share: largest share of samples that may be set aside, 0 to 1.
        seed: of the order.
        skipped: path of the run's skipped.jsonl; None keeps the list in memory.
        limit: only the first so many samples.
    """

    def __init__(
        self,
        source: Sequence[Sample],
        *,
        trainer: Mapping[str, Any] | None = None,
        repeat: int = 1,
        max_skipped_share: float = 0.05,
        seed: int = 0,
        skipped: Path | str | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        loader = dict(trainer or {})
        self.source, self.repeat, self.max_skipped_share = source, repeat, max_skipped_share
        self.batch_size = int(loader.get("batch_size") or 16)
        self.micro_batch_size = int(loader.get("micro_batch_size") or self.batch_size)
        self.num_workers = int(loader.get("num_workers") or 0)
        self.seed, self.skipped_path, self.limit = seed, skipped, limit
        self.samples: list[Sample] = []
        self.skipped: dict[str, int] = {}
        self.report: BuildReport | None = None
        self._policy: Any = None

    def prepare_samples(self, policy: Any) -> int:
        """Read and encode every sample once, set aside those that cannot be used, and return how many are left."""
        self._policy = policy
        samples = [self.source[place] for place in range(len(self.source))][: self.limit]
        faulty = list(getattr(self.source, "set_aside", ()))
        skipped = SkippedLog(self.skipped_path, self.max_skipped_share, len(samples) + len(faulty))
        for item in faulty:
            skipped.add(item)
        self.samples = []
        faults = mapped(DialogueBatches(samples, policy.encoder).fault, range(len(samples)), self.num_workers)
        for sample, fault in zip(samples, faults, strict=True):
            if fault is None:
                self.samples.append(sample)
            else:
                skipped.add(SetAside(sample.id, sample.source, *fault))
        self.skipped = skipped.counts()
        if not self.samples:
            raise ValueError(
                f"none of {len(samples)} samples can be learned from ({self.skipped}); a supervised stage needs answers"
            )
        log.info("dialogues: %s of %s", f"{len(self.samples):,}", f"{len(samples) + len(faulty):,}")
        return len(self.samples)

    @property
    def pairs(self) -> list[Sample]:
        """The dialogues, under the name that both kinds of stage share."""
        return self.samples

    def build_pairs(self, policy: Any, trainer: pl.Trainer | None = None) -> BuildReport:
        """`prepare_samples`, with the account that preference stages give."""
        began = time.perf_counter()
        kept = self.prepare_samples(policy)
        samples = kept + sum(self.skipped.values())
        self.report = BuildReport(samples, 0, 0, kept, skipped=self.skipped, seconds=time.perf_counter() - began)
        return self.report

    def plan(self, rank: int = 0, world_size: int = 1) -> StepPlan:
        """Which dialogues meet in which step."""
        return StepPlan(
            len(self.samples), self.batch_size, self.micro_batch_size, seed=self.seed, repeat=self.repeat, rank=rank,
            world_size=world_size,
        )  # fmt: skip

    def steps_per_epoch(self) -> int:
        """Optimiser steps of one pass over the samples."""
        return self.plan().steps_per_epoch

    def epoch_loader(
        self, epoch: int = 0, first_step: int = 0, *, rank: int | None = None, world_size: int | None = None
    ) -> DataLoader[StepBatch]:
        """The steps of one pass from `first_step` on, as `PreferenceDataModule.epoch_loader` gives them."""
        if self._policy is None:
            raise RuntimeError("there are no dialogues yet; call prepare_samples(policy) before asking for batches")
        if rank is None or world_size is None:
            rank, world_size = (
                (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
            )
        make = DialogueBatches(self.samples, self._policy.encoder)
        return epoch_of_steps(
            self.plan(rank, world_size), make, epoch=epoch, first_step=first_step, num_workers=self.num_workers,
            pin_memory=self._policy.device.type == "cuda",
        )  # fmt: skip

    def train_dataloader(self) -> DataLoader[StepBatch]:
        """The first pass."""
        return self.epoch_loader()

    def batches(self) -> Iterator[PairBatch]:
        """All samples once, in order, in micro-batches: for a loss over the whole set."""
        size, count = self.micro_batch_size, len(self.samples)
        parts = [range(start, min(start + size, count)) for start in range(0, count, size)]
        return mapped(DialogueBatches(self.samples, self._policy.encoder), parts, self.num_workers)
