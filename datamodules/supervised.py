"""The data of a supervised stage: dialogues with their answers, served as optimiser steps.

A dialogue is a prompt (everything up to the first answer) with one "response" (all that follows) whose mask marks the
assistant's tokens. Samples without an answer are set aside. A stage may let the policy write part of its own data: answers
(`proposer`) or descriptions before questions (`infusion`), see `own_answers.py`.
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
from datamodules.candidates import CandidateMaker
from datamodules.encoded_steps import epoch_of_steps, mapped
from datamodules.own_answers import infused_samples, own_answers, share_of
from datamodules.report import BuildReport
from datamodules.steps import StepPlan
from parallax.models.batch import EncodedDialogue, PairBatch, StepBatch
from parallax.models.encoder import Encoder
from parallax.preference.infusion import Infusion
from parallax.records import BadImage, Response, Sample
from parallax.records.candidate_store import CandidateStore
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
    """Makes micro-batches of dialogues. Picklable.

    Args:
        samples: dialogues with their answers.
        encoder: of the policy.
        responses: per sample the answer as the policy generated it, whose tokens are learned as they are; None for answers
            that came as text.
    """

    def __init__(
        self, samples: Sequence[Sample], encoder: Encoder, responses: Sequence[Response] | None = None
    ) -> None:
        self.samples, self.encoder, self.responses = samples, encoder, responses

    def __call__(self, places: Sequence[int]) -> PairBatch:
        samples, encoder = [self.samples[place] for place in places], self.encoder
        if self.responses is None:
            scoring = encoder.collate_dialogues([encode_sample(encoder, sample) for sample in samples])
        else:
            answers = [self.responses[place] for place in places]
            scoring = encoder.collate(
                [
                    (encoder.encode_prompt(sample.image.load(), sample.question), [encoder.encode_response(answer)])
                    for sample, answer in zip(samples, answers, strict=True)
                ]
            )
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
        share: of the source that is used, above 0 to 1, drawn by a hash of each sample's id.
        proposer: whose chosen answers are learned in place of the source's own; None for the source's.
        infusion: puts the policy's own description before each first question; None leaves questions as they are.
        cache_dir: holds `candidates/`; needed where the policy is asked for something.
        generation: of the `generation` group: batch_size.
    """

    def __init__(
        self,
        source: Sequence[Sample],
        *,
        share: float = 1.0,
        proposer: Any = None,
        infusion: Infusion | None = None,
        cache_dir: Path | str | None = None,
        generation: Mapping[str, Any] | None = None,
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
        self.share, self.proposer, self.infusion = share, proposer, infusion
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir is not None else None
        self.generation_batch_size = int((generation or {}).get("batch_size") or 128)
        if (proposer is not None or infusion is not None) and cache_dir is None:
            raise ValueError("a supervised stage whose policy writes its own data needs a cache_dir to keep it in")
        self.samples: list[Sample] = []
        self.responses: list[Response] | None = None
        self.skipped: dict[str, int] = {}
        self.made = (0, 0)  # answers generated now, answers found in the cache
        self.report: BuildReport | None = None
        self._policy: Any = None

    def prepare_samples(self, policy: Any, trainer: pl.Trainer | None = None) -> int:
        """Read and encode every sample once, set aside those that cannot be used, and return how many are left.

        What the policy has to write is asked of it as it is now; with a `trainer`, on its predict loop.
        """
        self._policy = policy
        every = [self.source[place] for place in range(len(self.source))][: self.limit]
        samples = share_of(every, self.share, self.seed)
        faulty = list(getattr(self.source, "set_aside", ()))
        is_first = trainer is None or trainer.global_rank == 0
        path = self.skipped_path if is_first else None
        skipped = SkippedLog(path, self.max_skipped_share, len(samples) + len(faulty))
        for item in faulty:
            skipped.add(item)
        wanted = len(samples) + len(faulty)
        responses: list[Response] | None = None
        if self.cache_dir is not None and (self.proposer is not None or self.infusion is not None):
            store = CandidateStore(self.cache_dir / "candidates")
            maker = CandidateMaker(policy, store, trainer=trainer, batch_size=self.generation_batch_size)
            if self.proposer is not None:
                learned = own_answers(samples, self.proposer, maker, skipped, seed=self.seed)
                samples, responses = [sample for sample, _ in learned], [answer for _, answer in learned]
            if self.infusion is not None:
                answer_of = dict(zip([s.id for s in samples], responses or [], strict=False))
                samples = infused_samples(samples, self.infusion, maker, skipped, seed=self.seed)
                responses = [answer_of[sample.id] for sample in samples] if responses is not None else None
            self.made = (maker.built, maker.reused)
        faults = mapped(
            DialogueBatches(samples, policy.encoder, responses).fault, range(len(samples)), self.num_workers
        )
        good = []
        for place, (sample, fault) in enumerate(zip(samples, faults, strict=True)):
            if fault is None:
                good.append(place)
            else:
                skipped.add(SetAside(sample.id, sample.source, *fault))
        self.samples = [samples[place] for place in good]
        self.responses = [responses[place] for place in good] if responses is not None else None
        self.skipped = skipped.counts()
        if not self.samples:
            raise ValueError(
                f"none of {wanted} samples can be learned from ({self.skipped}); a supervised stage needs answers"
            )
        log.info("dialogues: %s of %s", f"{len(self.samples):,}", f"{wanted:,}")
        return len(self.samples)

    @property
    def pairs(self) -> list[Sample]:
        """The dialogues, under the name that both kinds of stage share."""
        return self.samples

    def build_pairs(self, policy: Any, trainer: pl.Trainer | None = None) -> BuildReport:
        """`prepare_samples`, with the account that preference stages give."""
        began = time.perf_counter()
        kept = self.prepare_samples(policy, trainer)
        samples = kept + sum(self.skipped.values())
        self.report = BuildReport(samples, *self.made, kept, skipped=self.skipped, seconds=time.perf_counter() - began)
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
        make = self._batches()
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
        return mapped(self._batches(), parts, self.num_workers)

    def _batches(self) -> DialogueBatches:
        return DialogueBatches(self.samples, self._policy.encoder, self.responses)
