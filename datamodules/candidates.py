"""Answers for a pair build: from the store where they are known, from the policy where they are not, stored as they come.

What is missing is generated in large batches and written shard by shard, so a build that is stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lightning_modules.pair_builder import PlannedGeneration, answer, generate_candidates
from parallax.models import processes
from parallax.models.generation.requests import GenerationCounts, GenerationRequest
from parallax.preference.proposer import Ask, Unanswerable
from parallax.records import BadImage, Candidate
from parallax.records.candidate_store import CandidateStore
from parallax.records.shard_folder import KeyIndex

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from parallax.models.generation.generate import Answerer

__all__ = ["CandidateMaker", "Unanswerable"]


class CandidateMaker:
    """Brings candidates for requests.

    Args:
        policy: who answers what is not stored: a policy, or a server in its place.
        store: where answers are kept.
        trainer: answers on its predict loop, spread over its processes; None generates right here.
        batch_size: answers generated at once.
        num_workers: processes that prepare images for the model; None takes the policy's number.
        progress: told how many more distinct answers there are.

    Attributes:
        built, reused: distinct answers generated now, and distinct answers that were there already.
        counts: what generating them took, of this process.
    """

    def __init__(
        self,
        policy: Answerer,
        store: CandidateStore,
        *,
        trainer: pl.Trainer | None = None,
        batch_size: int = 128,
        num_workers: int | str | None = None,
        progress: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.policy, self.store, self.trainer = policy, store, trainer
        self.batch_size, self.num_workers, self.progress = batch_size, num_workers, progress
        self.counts = GenerationCounts()
        self.built = self.reused = 0  # distinct answers
        self._seen = KeyIndex()

    def answers(self, asks: Sequence[Ask]) -> list[Candidate]:
        """A candidate for each ask, in order. Raises `Unanswerable` when there is none for some, after making all others."""
        why: dict[str, str] = {}
        planned: list[PlannedGeneration | None] = [self._plan(ask, why) for ask in asks]
        asked = {plan.key: plan for plan in reversed(planned) if plan is not None}
        missing = self._agreed([key for key in asked if key not in self.store])
        new = {key for key in asked if key not in self._seen}
        self._seen.add((key, 0) for key in new)
        known = len(new - set(missing))
        self.reused += known
        self.progress(known)
        if missing:
            self._generate([asked[key] for key in missing], why)
            self.built += sum(key in self.store for key in missing if key in asked)
        found = self.store.get_many(asked)
        for plan in planned:
            if plan is not None and plan.key not in found:
                why.setdefault(plan.request.sample_id, f"sample {plan.request.sample_id!r} could not be answered")
            elif plan is not None and not self.policy.encoder.never_said.isdisjoint(found[plan.key].token_ids or ()):
                why.setdefault(
                    plan.request.sample_id,
                    f"an answer kept for sample {plan.request.sample_id!r} holds a control token of the model, which would act "
                    "as one when it is scored",
                )
        if why:
            raise Unanswerable(why)
        return [
            replace(found[plan.key], sample_id=plan.request.sample_id, role=plan.role, index=plan.index)
            for plan in planned
            if plan is not None
        ]

    def _plan(self, ask: Ask, why: dict[str, str]) -> PlannedGeneration | None:
        try:
            return PlannedGeneration(ask.role, ask.index, ask.request, self.policy.spec(ask.request))
        except BadImage as bad:
            why[ask.request.sample_id] = str(bad)
            return None

    def _agreed(self, missing: list[str]) -> list[str]:
        """Every process has to work on the same list, whatever each has seen in the store so far."""
        if self.trainer is not None and self.trainer.world_size > 1:
            missing = processes.broadcast(missing)
            self.store.refresh()  # what the first process has seen already
        return missing

    def _generate(self, planned: Sequence[PlannedGeneration], why: dict[str, str]) -> None:
        def set_aside(request: GenerationRequest, reason: str) -> None:
            why.setdefault(request.sample_id, reason)

        options: dict[str, Any] = {
            "batch_size": self.batch_size, "num_workers": self.num_workers, "progress": self.progress, "set_aside": set_aside,
        }  # fmt: skip
        if self.trainer is not None:
            self.counts.add(generate_candidates(self.policy, planned, self.store, self.trainer, **options))
            for seen_elsewhere in processes.all_gather(why):
                for sample_id, reason in seen_elsewhere.items():
                    why.setdefault(sample_id, reason)
        else:
            self.counts.add(answer(self.policy, planned, self.store, **options))
