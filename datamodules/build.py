"""Building pairs: samples → candidates → scores → pairs, slice by slice, with an account of every sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from datamodules.candidates import CandidateMaker, Unanswerable
from datamodules.encoded_steps import encode_pair, mapped
from parallax.models import processes
from parallax.models.encoding.chat import CannotWrite
from parallax.models.encoding.prompt_encoder import PromptEncoder, PromptTooLong
from parallax.preference.asker import Asker, GivenQuestions
from parallax.preference.judge import Judge, Judgement, Scores, as_judgement
from parallax.preference.proposer import Proposer, SearchProposer
from parallax.preference.selector import Selector
from parallax.records import BadImage, Candidate, Dropped, PreferencePair, Sample
from parallax.records.skipped import SetAside, SkippedLog

if TYPE_CHECKING:
    from parallax.models.policy import Policy

SLICE = 4096  # samples planned and answered at a time: bounds memory, and is far more than one batch

Outcome = PreferencePair | Dropped


def outcomes_of_samples(
    samples: Iterable[Sample],
    *,
    policy: Policy,
    proposer: Proposer,
    judge: Judge,
    selector: Selector,
    maker: CandidateMaker,
    skipped: SkippedLog,
    seed: int,
    finished: Callable[[int], None] = lambda samples: None,
    counts: Counter[str] | None = None,
    asker: Asker | None = None,
) -> Iterator[Outcome]:
    """Pairs or a reason for every sample that can be answered, in order; the others go to `skipped`.

    What the judge counted is added to `counts`.
    """
    for found in judged_samples(
        samples, policy=policy, proposer=proposer, judge=judge, maker=maker, skipped=skipped, seed=seed, finished=finished,
        asker=asker,
    ):  # fmt: skip
        if isinstance(found, Dropped):
            yield found
            continue
        sample, candidates, judged = found
        if counts is not None:
            counts.update(judged.counts)
        made = selector.select(sample, candidates, judged)
        yield from made if isinstance(made, list) else [made]


def judged_samples(
    samples: Iterable[Sample],
    *,
    policy: Policy,
    proposer: Proposer,
    judge: Judge,
    maker: CandidateMaker,
    skipped: SkippedLog,
    seed: int,
    finished: Callable[[int], None] = lambda samples: None,
    asker: Asker | None = None,
) -> Iterator[tuple[Sample, Sequence[Candidate], Judgement] | Dropped]:
    """Every sample that can be answered, as it is trained on, with its candidates and what the judge says of them, in order.

    Those without a question are dropped.
    """
    stream = iter(samples)
    while batch := list(islice(stream, SLICE)):
        asked, dropped = asked_samples(batch, asker or GivenQuestions(), maker, skipped, seed)
        yield from dropped
        usable, groups = proposed(fit_for(proposer, asked, skipped), policy, proposer, maker, skipped, seed)
        usable = [as_trained(proposer, sample, seed) for sample in usable]
        usable, groups, scores = _judge(usable, groups, policy, judge, maker, skipped, seed)
        for sample, candidates, own in zip(usable, groups, scores, strict=True):
            yield sample, candidates, as_judgement(own)
        finished(len(batch))


def asked_samples(
    samples: list[Sample], asker: Asker, maker: CandidateMaker, skipped: SkippedLog, seed: int
) -> tuple[list[Sample], list[Dropped]]:
    """The samples with the asker's questions, and those that got none."""
    while True:
        try:
            made = asker.asked(samples, seed=seed, generate=maker.answers)
        except Unanswerable as unanswerable:
            samples = _set_aside(samples, unanswerable.why, skipped)
        else:
            dropped = [one for one in made if isinstance(one, Dropped)]
            return [sample for one in made if not isinstance(one, Dropped) for sample in one], dropped


def fit_for(proposer: Proposer, samples: list[Sample], skipped: SkippedLog) -> list[Sample]:
    """The samples the proposer can work with; the others go to `skipped` with the reason its `unfit` gives."""
    faults = [(sample, proposer.unfit(sample)) for sample in samples]
    for sample, fault in faults:
        if fault is not None:
            skipped.add(SetAside(sample.id, sample.source, *fault))
    return [sample for sample, fault in faults if fault is None]


def as_trained(proposer: Proposer, sample: Sample, seed: int) -> Sample:
    """The sample with the question its pair is trained on, where the proposer says another than the sample's own."""
    question = proposer.trained_question(sample, seed)
    if question == sample.question:
        return sample
    return replace(sample, turns=(sample.turns[0].asking(question), *sample.turns[1:]))


def proposed(
    samples: list[Sample], policy: Policy, proposer: Proposer, maker: CandidateMaker, skipped: SkippedLog, seed: int
) -> tuple[list[Sample], list[Any]]:
    """The candidates of all samples that can be answered."""
    while True:
        if not samples:
            return [], []
        try:
            counts = _share_search(proposer, policy, samples, maker, seed)
            groups = proposer.propose(policy, samples, seed=seed, generate=maker.answers)
            if counts is not None and isinstance(proposer, SearchProposer):
                proposer.built, proposer.reused = counts  # what `propose` found had just been made
            return samples, groups
        except Unanswerable as unanswerable:
            samples = _set_aside(samples, unanswerable.why, skipped)


def _judge(
    samples: list[Sample],
    groups: list[Any],
    policy: Policy,
    judge: Judge,
    maker: CandidateMaker,
    skipped: SkippedLog,
    seed: int,
) -> tuple[list[Sample], list[Any], Sequence[Scores]]:
    """Scores of all samples that can be judged. What the judge has asked already is found in the store."""
    while True:
        if not samples:
            return [], [], []
        try:
            return samples, groups, judge.judge(policy, samples, groups, seed=seed, generate=maker.answers)
        except Unanswerable as unanswerable:
            groups = [g for sample, g in zip(samples, groups, strict=True) if sample.id not in unanswerable.why]
            samples = _set_aside(samples, unanswerable.why, skipped)


def _set_aside(samples: list[Sample], why: dict[str, str], skipped: SkippedLog) -> list[Sample]:
    """The samples that are left when those named in `why` are set aside."""
    for sample in samples:
        if sample.id in why:
            skipped.add(SetAside(sample.id, sample.source, reason_of(why[sample.id]), why[sample.id]))
    return [sample for sample in samples if sample.id not in why]


def _share_search(
    proposer: Proposer, policy: Policy, samples: Sequence[Sample], maker: CandidateMaker, seed: int
) -> tuple[int, int] | None:
    """With several processes, each does its share of a search first; all of them then find the whole in the store.

    Returns what the proposer's `built` and `reused` come to over all processes; None where there was nothing to share.
    """
    trainer = maker.trainer
    if trainer is None or trainer.world_size == 1 or not isinstance(proposer, SearchProposer):
        return None
    before = proposer.built, proposer.reused
    with policy.gathered():
        proposer.search(policy, samples[trainer.global_rank :: trainer.world_size], seed=seed)
    trainer.strategy.barrier("search")
    made = processes.all_gather((proposer.built - before[0], proposer.reused - before[1]))
    return before[0] + sum(built for built, _ in made), before[1] + sum(reused for _, reused in made)


def reason_of(why: str) -> str:
    """The short name of a sentence that says why a sample cannot be used."""
    if why.startswith("image "):
        return "bad_image"
    if "chat template" in why:
        return "template"
    return "long_prompt" if "context" in why else "bad_text" if "control token" in why else "unanswered"


def outcomes_of_pairs(
    pairs: Sequence[PreferencePair],
    *,
    selector: Selector,
    encoder: PromptEncoder,
    skipped: SkippedLog,
    num_workers: int = 0,
    looks_at_images: bool = False,
) -> Iterator[Outcome]:
    """Ready-made pairs under the same rules. Each is read and encoded once, so that none fails in the middle of training.

    `looks_at_images`: whether the objective can learn from pairs whose images alone differ.
    """
    faults = mapped(_Trial(pairs, encoder, looks_at_images), range(len(pairs)), num_workers)
    for pair, fault in zip(pairs, faults, strict=True):
        if fault is not None:
            skipped.add(SetAside(pair.sample_id, pair.source, *fault))
        else:
            yield selector.check(pair)


class _Trial:
    """Why a pair cannot be encoded: (reason, sentence) or None."""

    def __init__(self, pairs: Sequence[PreferencePair], encoder: PromptEncoder, looks_at_images: bool) -> None:
        self.pairs, self.encoder, self.looks_at_images = pairs, encoder, looks_at_images

    def __call__(self, place: int) -> tuple[str, str] | None:
        pair = self.pairs[place]
        if pair.rejected_images and not self.looks_at_images:
            return (
                "rejected_images",
                f"the rejected answer of pair {pair.sample_id!r} is beside other images; use a loss that compares images",
            )
        try:
            self.encoder.collate([encode_pair(self.encoder, pair)])
            if pair.rejected_images:
                self.encoder.encode_conversation(pair.conversation.with_images(pair.rejected_images))
        except BadImage as bad:
            return "bad_image", str(bad)
        except PromptTooLong as error:
            return "long_prompt", str(error)
        except CannotWrite as error:
            return "template", str(error)
        except ValueError as error:
            return "bad_text", str(error)
        return None
