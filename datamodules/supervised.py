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

import numpy as np
import pytorch_lightning as pl

from datamodules.build import reason_of
from datamodules.encoded_steps import mapped
from datamodules.report import BuildReport
from datamodules.row_lengths import RowLengths
from datamodules.serving import StepDataModule
from parallax.models.batch import EncodedDialogue, PairBatch
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

    def trial(self, place: int) -> int | tuple[str, str]:
        """How many tokens a sample takes, or why it cannot be used: (reason, sentence)."""
        try:
            scoring = self([place]).scoring
        except BadImage as bad:
            return "bad_image", str(bad)
        except ValueError as error:
            return ("no_answer" if "no answer" in str(error) else reason_of(str(error))), str(error)
        return int(scoring.prompt_lengths.sum() + scoring.response_lengths.sum())


class SupervisedDataModule(StepDataModule):
    """Dialogues of one stage.

    Args:
        source: samples whose turns have answers.
        trainer: of the `trainer` group: batch_size (dialogues per step over all processes), micro_batch_size,
            micro_batch_tokens, group_by_length, num_workers.
        repeat: how often each sample is listed per epoch.
        max_skipped_share: largest share of samples that may be set aside, 0 to 1.
        seed: of the order.
        skipped: path of the run's skipped.jsonl; None keeps the list in memory.
        limit: only the first so many samples.
    """

    items = "dialogues"

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
        super().__init__(trainer, seed=seed, repeat=repeat)
        self.source, self.max_skipped_share = source, max_skipped_share
        self.skipped_path, self.limit = skipped, limit
        self.samples: list[Sample] = []
        self.skipped: dict[str, int] = {}
        self.report: BuildReport | None = None
        self._lengths: RowLengths | None = None

    def prepare_samples(self, policy: Any) -> int:
        """Read and encode every sample once, set aside those that cannot be used, and return how many are left."""
        self._policy = policy
        samples = [self.source[place] for place in range(len(self.source))][: self.limit]
        faulty = list(getattr(self.source, "set_aside", ()))
        skipped = SkippedLog(self.skipped_path, self.max_skipped_share, len(samples) + len(faulty))
        for item in faulty:
            skipped.add(item)
        self.samples, lengths = [], []
        trials = mapped(DialogueBatches(samples, policy.encoder).trial, range(len(samples)), self.num_workers)
        for sample, found in zip(samples, trials, strict=True):
            if isinstance(found, int):
                self.samples.append(sample)
                lengths.append(found)
            else:
                skipped.add(SetAside(sample.id, sample.source, *found))
        tokens = np.array(lengths, dtype=np.int64)
        self._lengths = RowLengths(tokens, tokens)  # one response each, so one row in every layout
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

    def row_lengths(self) -> RowLengths | None:
        """Tokens of every dialogue."""
        return self._lengths

    def _count(self) -> int:
        return len(self.samples)

    def _served(self) -> DialogueBatches:
        if self._policy is None:
            raise RuntimeError("there are no dialogues yet; call prepare_samples(policy) before asking for batches")
        return DialogueBatches(self.samples, self._policy.encoder)

    def batches(self) -> Iterator[PairBatch]:
        """All samples once in micro-batches, rows of like length together: for a loss over the whole set."""
        return mapped(self._served(), self.passes(range(len(self.samples))), self.num_workers)
