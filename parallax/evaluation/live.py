"""Evaluation of a live policy: no second copy, no export, and the policy left exactly as it was found.

Answers are content-addressed, like candidates: those of an earlier evaluation are found by all that determines them (weights,
precision, template, images, questions, view, decoding) and scored again, so that a changed metric never reads stale numbers
and a repeated run does not generate twice.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from parallax.evaluation.agreement import Answer, BestOf
from parallax.evaluation.coco_words import CocoWords
from parallax.evaluation.evaluation import Evaluation, EvaluationItem
from parallax.evaluation.image_use import ImageUse
from parallax.evaluation.suites import ChairSuite, Scores, Suite
from parallax.models import processes
from parallax.models.exchange import evaluating
from parallax.models.generation.requests import Generation, GenerationRequest
from parallax.preference.infusion import Describe, infuse
from parallax.preference.proposer import Ask, Unanswerable
from parallax.records import BadImage, Candidate, Decoding, Sample, ViewSpec, fingerprint, seed_for
from parallax.records.shard_folder import KeyedStore
from parallax.records.skipped import SetAside, SkippedLog

if TYPE_CHECKING:
    from parallax.models.policy import Policy

log = logging.getLogger(__name__)

IDENTITY = ViewSpec()


@dataclass(slots=True)
class _Outcome:
    answers: dict[str, Answer]  # by sample id
    skipped: dict[str, str]  # sample id -> reason
    reused: bool


def evaluate(
    policy: Policy,
    suites: Sequence[Suite],
    *,
    batch_size: int = 128,
    decoding: Decoding | None = None,
    view: ViewSpec | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    max_skipped_share: float = 0.05,
    skipped_file: Path | str | None = None,
    progress: Callable[[int], None] | None = None,
    cache_dir: Path | str | None = None,
    describe: Describe | None = None,
    best: BestOf | None = None,
) -> Evaluation:
    """Ask the policy every question of the suites and score the answers.

    Args:
        policy: the live policy; its train/eval mode, random state and weights are as before when this returns.
        suites: with distinct names and distinct metrics.
        batch_size: rows generated at once.
        decoding: None is greedy. Otherwise its temperature and top-p are used, with a seed per sample; the token limit
            is always the suite's own.
        view: evaluate under a view of the images (None: as they are). Its seed is mixed with each sample's id.
        bootstrap: resamples of the intervals.
        seed: of the intervals and of sampled decoding.
        max_skipped_share: largest share of a suite's samples that may be set aside (bad image, prompt too long).
        skipped_file: JSONL file that takes the samples set aside and why; they are in `Evaluation.skipped` in any case.
        progress: called with the number of answers that were just finished.
        cache_dir: where answers are kept for reuse (None: nowhere).
        describe: first let the policy describe each image, then ask with the description before the question, the image
            there both times (None: ask as it is). Suites that ask for a description themselves are asked as they are. A
            sample whose image gets no description is set aside.
        best: answer several times and have a judge pick one (None: take the one answer).

    Raises:
        ValueError: two suites of one name or with one metric.
        TooManySkipped: more samples had to be set aside than `max_skipped_share` allows.
    """
    names = [suite.name for suite in suites]
    if len(set(names)) < len(names):
        raise ValueError(f"suites need distinct names, got {', '.join(names)}")
    started = time.perf_counter()
    items: list[EvaluationItem] = []
    skipped: list[dict[str, str]] = []
    reused: list[str] = []
    owner: dict[str, str] = {}
    for suite in suites:
        if isinstance(suite, ImageUse):
            with _left_as_found(policy):
                items += _image_use(policy, suite, batch_size, progress, cache_dir, seed)
            continue
        with _left_as_found(policy):
            requests = [_request(sample, suite, decoding, view, seed) for sample in suite.samples]
            unseen: dict[str, str] = {}
            if describe is not None and not suite.asks_for_descriptions:
                requests, unseen = _described(policy, suite.samples, requests, describe, batch_size, cache_dir)
            outcome = _answers(policy, requests, batch_size, progress, cache_dir)
            outcome.skipped = unseen | outcome.skipped
            if best is not None:
                outcome.answers = _best(
                    policy, suite.samples, requests, outcome.answers, best, batch_size, cache_dir, seed
                )
        aside = SkippedLog(skipped_file if processes.is_first() else None, max_skipped_share, total=len(suite.samples))
        for name, why in outcome.skipped.items():
            aside.add(SetAside(name, f"evaluation/{suite.name}", "bad_sample", why))
        reused += [suite.name] if outcome.reused else []
        skipped += [{"suite": suite.name, "sample_id": name, "reason": why} for name, why in outcome.skipped.items()]
        for item in _items(suite, outcome.answers):
            for metric in item.scores:
                if owner.setdefault(metric, suite.name) != suite.name:
                    raise ValueError(
                        f"suites {owner[metric]!r} and {suite.name!r} both report {metric!r}; give one a `prefix`"
                    )
            items.append(item)
    seconds = time.perf_counter() - started
    meta = {
        "policy": policy.fingerprint(),
        "suites": {suite.name: len(suite.samples) for suite in suites},
        "view": asdict(view or IDENTITY),
        "describe": asdict(describe) if describe is not None else None,
        "decoding": {"temperature": decoding.temperature, "top_p": decoding.top_p} if decoding else "greedy",
        "best_of": best.settings() if best is not None else None,
        "tables": {suite.name: table for suite in suites if (table := _table_of(suite))},
        "reused": reused,
        "seconds": round(seconds, 3),
    }
    log.info(
        "evaluated %d answers of %s in %.1f s%s%s", len(items), ", ".join(names), seconds,
        f"; answers of {', '.join(reused)} reused from an earlier evaluation" if reused else "",
        f"; {len(skipped)} samples set aside" if skipped else "",
    )  # fmt: skip
    return Evaluation.from_items(items, bootstrap_draws=bootstrap, seed=seed, meta=meta, skipped=skipped)


def _image_use(
    policy: Policy,
    suite: ImageUse,
    batch_size: int,
    progress: Callable[[int], None] | None,
    cache_dir: Path | str | None,
    seed: int,
) -> list[EvaluationItem]:
    """The base model's answers (kept like all answers), scored by the policy; several processes share the work."""
    clean = [_request(sample, suite, None, None, seed) for sample in suite.samples]
    seen = [_request(sample, suite, None, suite.seen, seed) for sample in suite.samples]
    with policy.reference():
        chosen, rejected = (_answers(policy, asked, batch_size, None, cache_dir).answers for asked in (clean, seen))
    rows = [
        (sample, request.view, chosen[sample.id][0], rejected[sample.id][0])
        for sample, request in zip(suite.samples, seen, strict=True)
        if chosen.get(sample.id, ("", True))[0] and rejected.get(sample.id, ("", True))[0]
    ]
    mine = suite.measure(policy, rows[processes.rank() :: processes.world_size()], progress)
    shares = processes.all_gather(mine)
    scores = [shares[place % len(shares)][place // len(shares)] for place in range(len(rows))]
    return [
        _item(suite, sample, (answer, True), gained)
        for (sample, _, answer, _), gained in zip(rows, scores, strict=True)
    ]


def _table_of(suite: Suite) -> str:
    """Which table of words a suite finds objects with, where it has one to choose."""
    extract = suite.extract if isinstance(suite, ChairSuite) else None
    return extract.table if isinstance(extract, CocoWords) else ""


def _items(suite: Suite, answers: dict[str, Answer]) -> list[EvaluationItem]:
    answered = [sample for sample in suite.samples if sample.id in answers]
    scores = suite.score_all([(sample, answers[sample.id][0]) for sample in answered])
    return [_item(suite, one, answers[one.id], gained) for one, gained in zip(answered, scores, strict=True)]


def _item(suite: Suite, sample: Sample, answer: Answer, scores: Scores) -> EvaluationItem:
    group, truth = sample.image.describe(), suite.truth(sample)
    return EvaluationItem(suite.name, sample.id, group, sample.kind, sample.question, truth, *answer, scores)


def _answers(
    policy: Policy,
    requests: Sequence[GenerationRequest],
    batch_size: int,
    progress: Callable[[int], None] | None,
    cache_dir: Path | str | None,
) -> _Outcome:
    """The answers to these requests, kept ones or the policy's; several processes share the work."""
    skipped: dict[str, str] = {}
    key_of: dict[str, str] = {}  # sample id → what its answer is kept under
    for request in requests if cache_dir is not None else ():
        try:
            key_of[request.sample_id] = policy.spec(request).key()
        except BadImage as error:
            skipped[request.sample_id] = str(error)
    store = KeyedStore(Path(cache_dir) / "evaluations") if cache_dir is not None else None
    kept = store.get_many(key_of.values()) if store is not None else {}
    answers = {name: (str(kept[key][0]), bool(kept[key][1])) for name, key in key_of.items() if key in kept}
    # the first one's view counts: who shares the work must agree on what is left of it
    answers = processes.broadcast(answers)
    known = len(answers)
    if progress is not None and known:
        progress(known)
    wanted = [r for r in requests if r.sample_id not in answers and r.sample_id not in skipped]
    mine = wanted[processes.rank() :: processes.world_size()]

    def set_aside(request: GenerationRequest, reason: str) -> None:
        skipped[request.sample_id] = reason

    def keep(made: Mapping[int, Generation]) -> None:  # batch by batch: a suite may be stopped in its middle
        if store is not None:
            store.add({key_of[mine[place].sample_id]: [said.text, said.finished] for place, said in made.items()})

    found: list[Generation | None] = []
    if wanted:
        found = policy.generate(mine, batch_size=batch_size, progress=progress, set_aside=set_aside, finished=keep)
    answers |= {r.sample_id: (g.text, g.finished) for r, g in zip(mine, found, strict=True) if g is not None}
    for theirs, refused in processes.all_gather((answers, skipped)):
        answers, skipped = answers | theirs, skipped | refused
    return _Outcome(answers, skipped, reused=0 < known == len(answers))


def _best(
    policy: Policy,
    samples: Sequence[Sample],
    requests: Sequence[GenerationRequest],
    usual: dict[str, Answer],
    best: BestOf,
    batch_size: int,
    cache_dir: Path | str | None,
    seed: int,
) -> dict[str, Answer]:
    """The answers that a judge picks. What it asks is answered and kept like everything else."""

    def generate(asks: Sequence[Ask]) -> list[Candidate]:
        specs = [policy.spec(ask.request) for ask in asks]
        distinct = {
            spec.key(): replace(ask.request, sample_id=spec.key()) for ask, spec in zip(asks, specs, strict=True)
        }
        found = _answers(policy, list(distinct.values()), batch_size, None, cache_dir)
        if found.skipped:
            keys = zip(asks, specs, strict=True)
            raise Unanswerable(
                {a.request.sample_id: found.skipped[k] for a, s in keys if (k := s.key()) in found.skipped}
            )
        return [
            Candidate(spec.key(), ask.request.sample_id, ask.role, ask.index, (), *found.answers[spec.key()], spec)
            for ask, spec in zip(asks, specs, strict=True)
        ]

    sample_of = {sample.id: sample for sample in samples}
    asked = [(sample_of[request.sample_id], request) for request in requests if request.sample_id in usual]
    tries = [usual]
    for number in range(1, best.n):
        sampled = [best.sampled(request, number, seed) for _, request in asked]
        tries.append(_answers(policy, sampled, batch_size, None, cache_dir).answers)
    return best.pick(policy, asked, tries, seed=seed, generate=generate)


def _described(
    policy: Policy,
    samples: Sequence[Sample],
    requests: Sequence[GenerationRequest],
    describe: Describe,
    batch_size: int,
    cache_dir: Path | str | None,
) -> tuple[list[GenerationRequest], dict[str, str]]:
    """The requests with a description of their image in the prompt, and why some samples have none.

    Questions about one image share its description, as it is the same greedy answer.
    """
    first: dict[tuple[str, str], str] = {}  # (image, view) -> the sample that is asked for the description
    seen_by: dict[str, tuple[str, str]] = {}
    asked, failed = [], {}
    for sample, request in zip(samples, requests, strict=True):
        try:
            seen = (sample.conversation().image_digest(), fingerprint(asdict(request.view)))
        except BadImage as error:
            failed[sample.id] = str(error)
            continue
        seen_by[sample.id] = seen
        if first.setdefault(seen, sample.id) == sample.id:
            asked.append(describe.request(sample, request.view))
    told = _answers(policy, asked, batch_size, None, cache_dir)
    infused = []
    for request in requests:
        if request.sample_id in failed:
            continue
        teller = first[seen_by[request.sample_id]]
        if teller in told.answers:
            prompt = infuse(describe.template, told.answers[teller][0], request.prompt)
            about = request.conversation.with_question(prompt)
            infused.append(replace(request, prompt=prompt, messages=about.as_messages()))
        else:
            failed[request.sample_id] = told.skipped.get(teller, "its image could not be described")
    return infused, failed


def _request(
    sample: Sample, suite: Suite, decoding: Decoding | None, view: ViewSpec | None, seed: int
) -> GenerationRequest:
    wanted = suite.decoding_of(sample) or decoding
    if wanted is None or wanted.greedy:
        decoded = Decoding(suite.max_new_tokens)
    else:
        decoded = replace(wanted, max_new_tokens=suite.max_new_tokens, seed=seed_for(seed, sample.id, "evaluation"))
    return GenerationRequest.about(sample, _view_of(view, sample.id), decoded)


def _view_of(view: ViewSpec | None, sample_id: str) -> ViewSpec:
    """The view this sample is seen through: its own draw, from a seed of its own."""
    if view is None or view.name == "identity":
        return IDENTITY
    from augment.registry import spec_of, view_from_spec
    from augment.view import generator_for

    seed = seed_for(view.seed, sample_id, "evaluation view")
    drawn = view_from_spec(view).draw(generator_for(seed), 0)
    return spec_of(drawn, seed)


@contextmanager
def _left_as_found(policy: Policy) -> Iterator[None]:
    """Put back every module's train/eval flag and the random state of torch, NumPy and Python."""
    python, legacy = random.getstate(), np.random.get_state()
    devices = [policy.device] if torch.device(policy.device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices), evaluating(policy.model):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)
