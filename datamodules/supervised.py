"""The data of a supervised stage: dialogues with their answers, served as optimiser steps.

A dialogue is a prompt (everything up to the first answer) with one "response" (all that follows) whose mask marks the
assistant's tokens. Samples without an answer are set aside. A stage may let the policy write part of its own data: answers
(`proposer`) or descriptions before questions (`infusion`), see `own_answers.py`.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytorch_lightning as pl

from datamodules.build import asked_samples, reason_of
from datamodules.candidates import CandidateMaker
from datamodules.encoded_steps import mapped
from datamodules.own_answers import infused_samples, kept_answers, own_answers, share_of
from datamodules.report import BuildReport
from datamodules.row_lengths import RowLengths
from datamodules.serving import StepDataModule
from datamodules.source import as_source
from parallax.models.batch import EncodedDialogue, PairBatch
from parallax.models.encoding.chat import CannotWrite
from parallax.models.encoding.prompt_encoder import PromptEncoder
from parallax.models.generation.server import answerer_for
from parallax.preference.asker import Asker, GivenQuestions
from parallax.preference.filters import REASONS, Keep
from parallax.preference.infusion import Infusion
from parallax.preference.judge import Judge
from parallax.records import BadImage, Response, Sample, naming
from parallax.records.candidate_store import CandidateStore
from parallax.records.skipped import SetAside, SkippedLog
from parallax.settings.groups import Generation, Trainer
from parallax.settings.shipped import shipped

if TYPE_CHECKING:
    from parallax.models.policy import Policy
    from parallax.preference.proposer import Proposer

log = logging.getLogger(__name__)


def encode_sample(encoder: PromptEncoder, sample: Sample) -> EncodedDialogue:
    """All turns that have an answer, up to the first that has none. Raises `BadImage`, `PromptTooLong`, or ValueError."""
    turns = []
    for place, turn in enumerate(sample.turns):
        if turn.answer is None or not turn.answer.strip():
            break
        turns.append((sample.asked(place), turn.answer))
    if not turns:
        raise ValueError(f"sample {sample.id!r} has no answer to learn")
    shown = [*sample.opening, *(question for question, _ in turns)]
    with naming(sample.conversation()):
        images = [image.load() for message in shown for image in message.images]
        return encoder.encode_dialogue(images, turns, sample.opening)


class DialogueBatches:
    """Makes micro-batches of dialogues. Picklable.

    Args:
        samples: dialogues with their answers.
        encoder: of the policy.
        responses: per sample the answer as the policy generated it, whose tokens are learned as they are; None for answers
            that came as text.
    """

    def __init__(
        self, samples: Sequence[Sample], encoder: PromptEncoder, responses: Sequence[Response] | None = None
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
                    (encoder.encode_conversation(sample.conversation()), [encoder.encode_response(answer)])
                    for sample, answer in zip(samples, answers, strict=True)
                ]
            )
        return PairBatch(scoring, None, [sample.id for sample in samples], scoring.counted().sum(-1))

    def trial(self, place: int) -> int | tuple[str, str]:
        """How many tokens a sample takes, or why it cannot be used: (reason, sentence)."""
        try:
            scoring = self([place]).scoring
        except BadImage as bad:
            return "bad_image", str(bad)
        except CannotWrite as error:
            return "template", str(error)
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
        share: of the source that is used, above 0 to 1, drawn by a hash of each sample's id.
        proposer: whose chosen answers are learned in place of the source's own; None for the source's.
        judge, keep: the proposer's answers are judged, and those that `keep` says are learned; None for those it calls chosen.
        infusion: puts the policy's own description before each first question; None leaves questions as they are.
        asker: says which questions are asked, where a proposer answers them; None for those of the source.
        cache_dir: holds `candidates/`; needed where the policy is asked for something.
        generation: of the `generation` group: batch_size.
    """

    items = "dialogues"

    def __init__(
        self,
        source: Sequence[Sample],
        *,
        share: float = 1.0,
        proposer: Proposer | None = None,
        judge: Judge | None = None,
        keep: Keep | None = None,
        infusion: Infusion | None = None,
        asker: Asker | None = None,
        cache_dir: Path | str | None = None,
        generation: Generation | None = None,
        trainer: Trainer | None = None,
        repeat: int = 1,
        max_skipped_share: float = 0.05,
        seed: int = 0,
        skipped: Path | str | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(trainer or shipped(Trainer), seed=seed, repeat=repeat)
        self.source, self.max_skipped_share = as_source(source), max_skipped_share
        self.skipped_path, self.limit = skipped, limit
        self.share, self.proposer, self.infusion = share, proposer, infusion
        self.judge, self.keep = judge, keep
        self.dropped: Counter[str] = Counter()  # samples of which no answer is kept, by reason
        self.judge_counts: Counter[str] = Counter()
        self.asker = asker or GivenQuestions()
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir is not None else None
        self.generation = generation or shipped(Generation)
        if (proposer is not None or infusion is not None) and cache_dir is None:
            raise ValueError("a supervised stage whose policy writes its own data needs a cache_dir to keep it in")
        self.samples: list[Sample] = []
        self.responses: list[Response] | None = None
        self.skipped: dict[str, int] = {}
        self.made = (0, 0)  # answers generated now, answers found in the cache
        self.report: BuildReport | None = None
        self._lengths: RowLengths | None = None

    def prepare_samples(self, policy: Policy, trainer: pl.Trainer | None = None) -> int:
        """Read and encode every sample once, set aside those that cannot be used, and return how many are left.

        What the policy has to write is asked of it as it is now; with a `trainer`, on its predict loop.
        """
        self._policy = policy
        every = [self.source[place] for place in range(len(self.source))][: self.limit]
        samples = share_of(every, self.share, self.seed)
        faulty = list(self.source.set_aside)
        is_first = trainer is None or trainer.global_rank == 0
        path = self.skipped_path if is_first else None
        skipped = SkippedLog(path, self.max_skipped_share, len(samples) + len(faulty))
        for faulty_row in faulty:
            skipped.add(faulty_row)
        wanted = len(samples) + len(faulty)
        responses: list[Response] | None = None
        if self.cache_dir is not None and (self.proposer is not None or self.infusion is not None):
            maker = CandidateMaker(
                answerer_for(policy, self.generation, self.cache_dir),
                CandidateStore(self.cache_dir / "candidates"),
                trainer=trainer,
                batch_size=self.generation.batch_size,
                num_workers=self.generation.num_workers,
            )
            if self.proposer is not None:
                samples, dropped = asked_samples(samples, self.asker, maker, skipped, self.seed)
                for item in dropped:
                    skipped.add(SetAside(item.sample_id, item.source, item.reason, REASONS[item.reason]))
                if self.judge is not None and self.keep is not None:
                    learned, self.dropped, self.judge_counts = kept_answers(
                        samples, self.proposer, self.judge, self.keep, policy, maker, skipped, seed=self.seed
                    )
                    log.info(self.judge.words(self.judge_counts))
                else:
                    learned = own_answers(policy, samples, self.proposer, maker, skipped, seed=self.seed)
                samples, responses = [sample for sample, _ in learned], [answer for _, answer in learned]
            if self.infusion is not None:
                answer_of = dict(zip([s.id for s in samples], responses or [], strict=False))
                samples = infused_samples(samples, self.infusion, maker, skipped, seed=self.seed)
                responses = [answer_of[sample.id] for sample in samples] if responses is not None else None
            self.made = (maker.built, maker.reused)
        good, lengths = [], []
        trials = mapped(
            DialogueBatches(samples, policy.encoder, responses).trial, range(len(samples)), self.num_workers
        )
        for place, (sample, found) in enumerate(zip(samples, trials, strict=True)):
            if isinstance(found, int):
                good.append(place)
                lengths.append(found)
            else:
                skipped.add(SetAside(sample.id, sample.source, *found))
        self.samples = [samples[place] for place in good]
        self.responses = [responses[place] for place in good] if responses is not None else None
        tokens = np.array(lengths, dtype=np.int64)
        self._lengths = RowLengths(tokens, tokens)  # one response each, so one row in every layout
        self.skipped = skipped.counts()
        if not self.samples:
            raise ValueError(
                f"none of {wanted} samples can be learned from ({self.skipped | self.dropped}); a supervised stage needs answers"
            )
        log.info("dialogues: %s of %s", f"{len(self.samples):,}", f"{wanted:,}")
        return len(self.samples)

    @property
    def pairs(self) -> list[Sample]:
        """The dialogues, under the name that both kinds of stage share."""
        return self.samples

    def build_pairs(self, policy: Policy, trainer: pl.Trainer | None = None) -> BuildReport:
        """`prepare_samples`, with the account that preference stages give."""
        began = time.perf_counter()
        kept = self.prepare_samples(policy, trainer)
        self.report = BuildReport(
            kept + sum(self.skipped.values()) + sum(self.dropped.values()), *self.made, kept, dict(self.dropped.most_common()),
            self.skipped, time.perf_counter() - began, judge=dict(self.judge_counts),
        )  # fmt: skip
        return self.report

    def row_lengths(self) -> RowLengths | None:
        """Tokens of every dialogue."""
        return self._lengths

    def _count(self) -> int:
        return len(self.samples)

    def _served(self) -> DialogueBatches:
        if self._policy is None:
            raise RuntimeError("there are no dialogues yet; call prepare_samples(policy) before asking for batches")
        return DialogueBatches(self.samples, self._policy.encoder, self.responses)

    def batches(self) -> Iterator[PairBatch]:
        """All samples once in micro-batches, rows of like length together: for a loss over the whole set."""
        return mapped(self._served(), self.passes(range(len(self.samples))), self.num_workers)
