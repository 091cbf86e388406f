"""Supervised data that the policy makes itself: its own good answers to learn, and its own descriptions before questions.

Answers are content-addressed like every other candidate, so a run that is repeated or goes on finds them again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from datamodules.build import as_trained, fit_for, judged_samples, proposed, reason_of
from datamodules.candidates import CandidateMaker, Unanswerable
from parallax.preference.filters import Keep
from parallax.preference.infusion import Infusion
from parallax.preference.judge import Judge
from parallax.preference.proposer import Ask, PlannedProposer, Proposer
from parallax.records import Candidate, Dropped, Response, Sample, seed_for
from parallax.records.skipped import SetAside, SkippedLog

if TYPE_CHECKING:
    from parallax.models.policy import Policy

Plan = Callable[[Sample], Ask]


def infused_samples(
    samples: Sequence[Sample], infusion: Infusion, maker: CandidateMaker, skipped: SkippedLog, *, seed: int
) -> list[Sample]:
    """The samples with the policy's description before the first question. Later turns and all answers stay as they are."""
    kept, described = _answered(
        samples, lambda sample: Ask("description", 0, infusion.request(sample, seed)), maker, skipped
    )
    return [
        replace(sample, turns=(first.asking(infusion.question(told.text, first.question)), *rest))
        for sample, told in zip(kept, described, strict=True)
        for first, *rest in [sample.turns]
    ]


def own_answers(
    policy: Policy,
    samples: Sequence[Sample],
    proposer: Proposer,
    maker: CandidateMaker,
    skipped: SkippedLog,
    *,
    seed: int,
) -> list[tuple[Sample, Response]]:
    """What the proposer would call chosen, with the sample as it is trained on. Where it is planned, no more is asked."""

    fit = fit_for(proposer, list(samples), skipped)
    if isinstance(proposer, PlannedProposer):
        planned = proposer.requests

        def chosen(sample: Sample) -> Ask:
            return next(ask for ask in planned(sample, seed) if ask.role == "chosen")

        kept, answers = _answered(fit, chosen, maker, skipped)
    else:
        kept, groups = proposed(fit, policy, proposer, maker, skipped, seed)
        answers = [next(candidate for candidate in group if candidate.role == "chosen") for group in groups]
    made = []
    for sample, candidate in zip(kept, answers, strict=True):
        if not candidate.text.strip():
            skipped.add(SetAside(sample.id, sample.source, "empty", f"the answer to sample {sample.id!r} is empty"))
            continue
        shown = as_trained(proposer, sample, seed)
        answered = replace(shown, turns=(replace(shown.turns[0], answer=candidate.text),))
        made.append((answered, Response(candidate.text, candidate.token_ids, {"candidate": candidate.key})))
    return made


def kept_answers(
    samples: Sequence[Sample],
    proposer: Proposer,
    judge: Judge,
    keep: Keep,
    policy: Policy,
    maker: CandidateMaker,
    skipped: SkippedLog,
    *,
    seed: int,
) -> tuple[list[tuple[Sample, Response]], Counter[str], Counter[str]]:
    """The judged answers that are to be learned, with the samples as they are trained on: several of one sample are samples of
    their own. Then why the others gave none (the judge's reason, or `none_kept`), and what the judge counted.
    """
    made: list[tuple[Sample, Response]] = []
    dropped, counts = Counter[str](), Counter[str]()
    for found in judged_samples(
        samples, policy=policy, proposer=proposer, judge=judge, maker=maker, skipped=skipped, seed=seed
    ):
        if isinstance(found, Dropped):
            dropped[found.reason] += 1
            continue
        sample, group, judged = found
        counts.update(judged.counts)
        places = keep.places([answer.text for answer in group], judged.scores) if not judged.reason else []
        if not places:
            dropped[judged.reason or "none_kept"] += 1
        for number, place in enumerate(places):
            answer, notes = group[place], judged.each[place] if judged.each else {}
            turns = (replace(sample.turns[0], answer=answer.text),)
            learned = replace(sample, id=f"{sample.id}/{number}" if number else sample.id, turns=turns)
            provenance = {"candidate": answer.key, **({"judge": dict(notes)} if notes else {})}
            made.append((learned, Response(answer.text, answer.token_ids, provenance, judged.scores[place])))
    return made, dropped, counts


def share_of(samples: Sequence[Sample], share: float, seed: int) -> list[Sample]:
    """A share of the samples, above 0 to 1, drawn by a hash of each sample's id; at least one, in their order."""
    if share == 1:
        return list(samples)
    wanted = max(1, round(share * len(samples)))
    drawn = sorted(range(len(samples)), key=lambda place: (seed_for(seed, samples[place].id, "share"), place))
    return [samples[place] for place in sorted(drawn[:wanted])]


def _answered(
    samples: Sequence[Sample], plan: Plan, maker: CandidateMaker, skipped: SkippedLog
) -> tuple[list[Sample], list[Candidate]]:
    left = list(samples)
    while left:
        try:
            return left, maker.answers([plan(sample) for sample in left])
        except Unanswerable as unanswerable:
            for sample in left:
                if (why := unanswerable.why.get(sample.id)) is not None:
                    skipped.add(SetAside(sample.id, sample.source, reason_of(why), why))
            left = [sample for sample in left if sample.id not in unanswerable.why]
    return [], []
